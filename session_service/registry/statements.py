"""The SQL of this adapter, read from `sql/queries.sql` once and asked for by name.

No query builder: a reviewer finds every statement in one file, in plain SQL. A name that is not there is a
mistake of ours and stops the first test that touches it.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

_NAME: Final = "-- name: "


@cache
def statements() -> Mapping[str, str]:
    """Return every named statement."""
    text = (files("session_service.registry") / "sql" / "queries.sql").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for block in text.split(_NAME)[1:]:
        name, _, sql = block.partition("\n")
        assert name not in found, name
        found[name] = sql.strip()
    return found
