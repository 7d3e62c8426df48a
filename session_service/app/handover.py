"""The settings as the parent hands them to its parts: the checked values, without what checked them.

Not a second form of settings: names and values are those of `settings.py`, read-only. Why: the library that
checks settings takes longer to import than everything else that a host needs.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from session_service.app.settings import Settings

_PATH = "path:"
"""What a text is told apart by that is a path; every other text starts with the other."""
_TEXT = "text:"


class _Group:
    """One group of settings, or all of them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings do not change while a part runs: {name}")

    def __repr__(self) -> str:
        return f"settings: {', '.join(self.__dict__)}"


def pack(settings: "Settings") -> str:
    """Return the settings as text; no secret is in them, only the names of files that hold secrets."""
    return json.dumps(_packed(settings.model_dump()))


def unpack(text: str) -> "Settings":
    """Return the settings from the text of `pack`."""
    return cast("Settings", _unpacked(json.loads(text)))


def _packed(value: Any) -> Any:
    match value:
        case dict():
            return {name: _packed(one) for name, one in value.items()}
        case list() | tuple():
            return [_packed(one) for one in value]
        case Path():
            return f"{_PATH}{value}"
        case str():
            return f"{_TEXT}{value}"
        case _:
            return value


def _unpacked(value: Any) -> Any:
    match value:
        case dict():
            return _Group({name: _unpacked(one) for name, one in value.items()})
        case list():
            return tuple(_unpacked(one) for one in value)
        case str() if value.startswith(_PATH):
            return Path(value.removeprefix(_PATH))
        case str():
            return value.removeprefix(_TEXT)
        case _:
            return value
