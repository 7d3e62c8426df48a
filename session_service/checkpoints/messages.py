"""What travels between the service and a storage worker: one struct of parameters per call, plain data only.

Answers are the structs of `ports/checkpoints.py`. Names of calls are the methods of that port.
"""

import msgspec

from session_service.ports.checkpoints import SavePlan, WorkspaceName


class TakeOver(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    fence_at_least: int
    node_id: str
    session_id: str
    registry_epoch: int


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A call about one workspace as a whole."""

    workspace: WorkspaceName


class Save(msgspec.Struct, frozen=True, kw_only=True):
    plan: SavePlan


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    home: str


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that is to be proved, and the home it is about."""

    workspace: WorkspaceName
    session_id: str
    fence: int
    seq: int
    hash: bytes
    home: str
    accepted: bool = False
    """Somebody accepted by name what that checkpoint lacks."""


class NewHome(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    fence: int
    seq: int | None
    owner: tuple[int, int] | None


class AtPath(msgspec.Struct, frozen=True, kw_only=True):
    """One file or folder of a checkpoint; the path is relative to the home, "" is the home itself."""

    workspace: WorkspaceName
    seq: int
    path: bytes


class FolderPart(AtPath, frozen=True, kw_only=True):
    """A page of a folder: names that follow `after` and begin with `prefix`, at most `limit`."""

    after: bytes
    prefix: bytes
    limit: int


class Archive(AtPath, frozen=True, kw_only=True):
    kind: str = "zip"
    checked: bool = False


class BringBack(AtPath, frozen=True, kw_only=True):
    """A part of a checkpoint that is to lie in the home of a running desktop."""

    home: str
    owner: tuple[int, int] | None


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    home: str
    name: str
    source: str
    owner: tuple[int, int] | None


class ReceiptOf(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    session_id: str
    body: bytes = b""


class Verify(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    level: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    probe: bool
