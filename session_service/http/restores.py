"""The route that brings files of a checkpoint back into the home of a running desktop.

Beside what is there and never over it: a new folder below `Restored`. The storage worker does it, for
the same reasons as with uploads, and refused in closing for the same reason, too.
"""

from session_service.base import errors
from session_service.core.records import AuditEntry, Session
from session_service.http import answers, asks, audit, paths
from session_service.http.routes import Exchange, Reply
from session_service.http.sessions import own_view
from session_service.http.uploads import open_for_files
from session_service.http.workspaces import workspace_name
from session_service.ports.checkpoints import RestoreReport


async def restore(exchange: Exchange) -> Reply:
    """Put a file, a folder or a whole home of a checkpoint below `Restored`."""
    ask = exchange.body(asks.RestoreAsk)
    path = paths.raw(ask.path)
    session = open_for_files((await own_view(exchange)).session)
    workspace = await exchange.services.registry.workspace(session.workspace_id)
    desktop = await exchange.services.registry.desktop(session.workspace_id, session.fence)
    if workspace is None or desktop is None:
        raise errors.DesktopGone()
    entry = audit.entry(
        exchange,
        "file.restored",
        user_id=session.user_id,
        session_id=session.id,
        workspace_id=session.workspace_id,
        path=paths.shown(path),
        seq=ask.seq,
    )
    await audit.record(exchange, entry)
    report = await exchange.services.checkpoints.bring_back(
        workspace_name(workspace),
        seq=ask.seq,
        path=path,
        home=desktop.home,
        owner=await exchange.services.owner_of(workspace_id=desktop.workspace_id, fence=desktop.fence),
    )
    if report.left_out_count:
        await audit.record(exchange, _in_part(exchange, session, report))
    made = answers.RestoredOut(
        path=report.home,
        entries=report.entries,
        bytes=report.bytes,
        not_made=[one.path for one in report.not_made],
        differs=[
            answers.DiffersOut(path=one.path, what=one.grade)
            for one in report.differs[: answers.LEFT_OUT_NAMED_MAX]
        ],
        complete=not report.left_out_count,
        left_out=answers.left_out(report.left_out),
        left_out_count=report.left_out_count,
    )
    return Reply(body=made, status=201)


def _in_part(exchange: Exchange, session: Session, report: RestoreReport) -> AuditEntry:
    """Return the record that not all was given; what was asked for stands in the one before."""
    first = report.left_out[0]
    return audit.entry(
        exchange,
        "file.restored_in_part",
        user_id=session.user_id,
        session_id=session.id,
        workspace_id=session.workspace_id,
        path=first.path,
        object=first.object,
        left_out=report.left_out_count,
    )
