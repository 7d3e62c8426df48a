"""Names of things: tenants, workspaces, and the number types of the repository.

These are plain values that may appear in object names, so each is checked where it is made: an id that could
leave its prefix in the object store must not exist. Not here: how the names of objects are spelt
(`storage/format/names.py`).
"""

import re
from dataclasses import dataclass
from typing import Final

from storage.errors import IdRefused

OPAQUE_ID: Final = re.compile(r"[0-9a-f]{8,64}\Z")
"""Tenant and workspace ids: lower-case hex, so that they can be nothing else inside a name of the store."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class WorkspaceRef:
    """Whose files: one repository lies at `t/<tenant>/w/<workspace>/`."""

    tenant: str
    workspace: str

    def __post_init__(self) -> None:
        for what, value in (("tenant", self.tenant), ("workspace", self.workspace)):
            if not OPAQUE_ID.match(value):
                raise IdRefused(what=what, value=value[:80])
