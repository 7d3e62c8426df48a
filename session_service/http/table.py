"""The table of routes: every address of the API and for machines, with all that is known of it.

The server, OpenAPI, `docs/api.md` and the matrix of rights in the tests are all made from it, so that none
of them can differ from the others. Pages are not here (`pages.py`).
"""

from typing import Final

from session_service.base import errors
from session_service.http import (
    access,
    answers,
    asks,
    erasure,
    health,
    history,
    keys,
    live,
    pauses,
    replication,
    tidying,
    upkeep,
    workspaces,
)
from session_service.http.routes import API, PUBLIC, Route
from session_service.http.table_people import PEOPLE
from session_service.http.table_sessions import SESSIONS

_STORE_ERRORS: Final = (
    errors.StorageUnavailable,
    errors.StorageRefused,
    errors.FilesDamaged,
    errors.WorkspaceErased,
    errors.PartUnavailable,
)
_WORKSPACE: Final = f"{API}/workspaces/{{workspace_id}}"
_CHECKPOINT: Final = f"{_WORKSPACE}/checkpoints/{{seq}}"


_FILE_ROUTES: Final = (
    Route(
        method="GET",
        path=f"{API}/workspaces",
        name="listWorkspaces",
        tag="files",
        summary="One's workspaces.",
        handler=workspaces.list_workspaces,
        access=access.OWN,
        query=asks.Page,
        answer=answers.WorkspacesOut,
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces",
        name="createWorkspace",
        tag="files",
        summary="Make a further home.",
        handler=workspaces.create_workspace,
        access=access.ACT_OWN,
        body=asks.WorkspaceAsk,
        answer=answers.WorkspaceOut,
        status=201,
        idempotent=True,
        may_fail_with=(errors.Conflict, errors.NameTaken),
    ),
    Route(
        method="GET",
        path=f"{_WORKSPACE}/checkpoints",
        name="listCheckpoints",
        tag="files",
        summary="Restorable points of a workspace, newest first.",
        handler=workspaces.list_checkpoints,
        access=access.READ,
        query=asks.Page,
        answer=answers.CheckpointsOut,
        may_fail_with=_STORE_ERRORS,
    ),
    Route(
        method="GET",
        path=f"{_CHECKPOINT}/files",
        name="listFiles",
        tag="files",
        summary="A folder at the time of a checkpoint.",
        handler=workspaces.list_files,
        access=access.FILES,
        query=asks.FilesQuery,
        answer=answers.FilesOut,
        may_fail_with=_STORE_ERRORS,
    ),
    Route(
        method="GET",
        path=f"{_CHECKPOINT}/content",
        name="downloadFile",
        tag="files",
        summary="One file's bytes at the time of a checkpoint.",
        handler=workspaces.download_file,
        access=access.FILES,
        query=asks.PathQuery,
        media="application/octet-stream",
        may_fail_with=(*_STORE_ERRORS, errors.TooManyAttempts),
    ),
    Route(
        method="GET",
        path=f"{_CHECKPOINT}/archive",
        name="downloadArchive",
        tag="files",
        summary="A folder, or the whole home, as a zip or a tar.",
        handler=workspaces.download_archive,
        access=access.FILES,
        query=asks.ArchiveQuery,
        media="application/zip",
        may_fail_with=(*_STORE_ERRORS, errors.TooManyAttempts),
    ),
)

_HISTORY: Final = (
    Route(
        method="GET",
        path=f"{API}/receipts",
        name="listReceipts",
        tag="history",
        summary="What each close proved, newest first.",
        handler=history.list_receipts,
        access=access.READ,
        query=asks.ReceiptsQuery,
        answer=answers.ReceiptsOut,
    ),
    Route(
        method="GET",
        path=f"{API}/receipts/{{session_id}}",
        name="readReceipt",
        tag="history",
        summary="The receipt of one session.",
        handler=history.read_receipt,
        access=access.READ,
        answer=answers.ReceiptOut,
    ),
    Route(
        method="GET",
        path=f"{API}/events",
        name="listEvents",
        tag="history",
        summary="Audit records.",
        handler=history.list_events,
        access=access.READ,
        query=asks.EventsQuery,
        answer=answers.EventsOut,
    ),
    Route(
        method="GET",
        path=f"{API}/events/stream",
        name="streamEvents",
        tag="history",
        summary="Live: `snapshot`, then `session`, `alarm` and every 15 s `beat`.",
        handler=live.stream,
        access=access.READ,
        media="text/event-stream",
        may_fail_with=(errors.TooManyStreams,),
    ),
    Route(
        method="GET",
        path=f"{API}/alarms",
        name="listAlarms",
        tag="history",
        summary="What needs a person now.",
        handler=history.list_alarms,
        access=access.OPERATE,
        answer=answers.AlarmsOut,
    ),
    Route(
        method="GET",
        path=f"{API}/status",
        name="readStatus",
        tag="history",
        summary="How the service is; details for those who are signed in.",
        handler=history.status,
        access=PUBLIC,
        answer=answers.StatusOut,
    ),
)

_MACHINES: Final = (
    Route(
        method="GET",
        path="/healthz",
        name="healthz",
        tag="machines",
        summary="The process is alive.",
        handler=health.healthz,
        access=PUBLIC,
    ),
    Route(
        method="GET",
        path="/readyz",
        name="readyz",
        tag="machines",
        summary="Control is settled and the registry answers; an object store that is away changes nothing.",
        handler=health.readyz,
        access=PUBLIC,
        may_fail_with=(errors.PartUnavailable, errors.RegistryUnavailable),
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        tag="machines",
        summary="Figures in Prometheus' text form, for the loopback or a token with scope read.",
        handler=health.metrics,
        access=PUBLIC,
        media="text/plain",
        may_fail_with=(errors.SignInRequired,),
    ),
)

ROUTES: Final[tuple[Route, ...]] = (
    *PEOPLE,
    *SESSIONS,
    *_FILE_ROUTES,
    *_HISTORY,
    *upkeep.ROUTES,
    *tidying.ROUTES,
    *keys.ROUTES,
    *erasure.ROUTES,
    *pauses.ROUTES,
    *replication.ROUTES,
    *_MACHINES,
)
