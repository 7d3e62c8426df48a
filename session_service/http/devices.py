"""What a browser is called where its user reads it: "Phone, Chrome", made from what it says of itself.

Not an identity: a label helps a person to recognise their own devices and is never trusted.
"""

from typing import Final

_BROWSERS: Final = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_DEVICES: Final = (
    ("iPad", "Tablet"),
    ("iPhone", "Phone"),
    ("Mobile", "Phone"),
    ("Android", "Tablet"),
    ("Macintosh", "Mac"),
    ("CrOS", "Chromebook"),
    ("Windows", "Windows computer"),
    ("Linux", "Linux computer"),
)
USER_AGENT_READ_MAX: Final = 400


def label_of(user_agent: str) -> str:
    """Return a short label for a User-Agent."""
    text = user_agent[:USER_AGENT_READ_MAX]
    device = next((label for mark, label in _DEVICES if mark in text), "")
    browser = next((label for mark, label in _BROWSERS if mark in text), "")
    return ", ".join(part for part in (device, browser) if part) or "Unknown device"
