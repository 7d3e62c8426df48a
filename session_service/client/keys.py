"""Names of the keys that have no letter, as symbols of X, for `Desktop.press` and `Desktop.hold`.

Not a map of keyboards: a letter's symbol is `ord("a")`, and text is typed by `Desktop.type`.
Source: X11/keysymdef.h, in the numbers that RFC 6143 section 7.5.4 refers to.
"""

from typing import Final

BACKSPACE: Final = 0xFF08
TAB: Final = 0xFF09
RETURN: Final = 0xFF0D
ESCAPE: Final = 0xFF1B
INSERT: Final = 0xFF63
DELETE: Final = 0xFFFF
HOME: Final = 0xFF50
END: Final = 0xFF57
PAGE_UP: Final = 0xFF55
PAGE_DOWN: Final = 0xFF56
LEFT, UP, RIGHT, DOWN = 0xFF51, 0xFF52, 0xFF53, 0xFF54
SHIFT: Final = 0xFFE1
CONTROL: Final = 0xFFE3
ALT: Final = 0xFFE9
SUPER: Final = 0xFFEB
"""The key with the mark of the keyboard's maker."""
MENU: Final = 0xFF67
PRINT: Final = 0xFF61
PAUSE: Final = 0xFF13
F1, F2, F3, F4, F5, F6 = (0xFFBE + number for number in range(6))
F7, F8, F9, F10, F11, F12 = (0xFFC4 + number for number in range(6))
