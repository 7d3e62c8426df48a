"""Text of others as a terminal may have it: names of files, windows and devices, and whatever a service said.

Not formatting. A file can be called "\\x1b]0;..." by whoever works in a desktop; printed as it is, it would
write into the terminal of the administrator who lists it: titles, colours, lines that were never said, and in
some terminals keys. Written with a backslash it is only a strange name.
"""

import re
from typing import Final

_COMMANDS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and new line, and those that turn the direction of a line."""


def harmless(text: str) -> str:
    """Return a text without what a terminal obeys."""
    return _COMMANDS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def in_a_cell(text: str) -> str:
    """Return a text for one cell of a table: a new line would be a row that nobody wrote."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")
