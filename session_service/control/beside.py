"""What a closing desktop holds, and the main line of its log does not take, is saved beside it: once for each
time that it is tried, and never as if the close had got on.

Another owner has the workspace, or the log cannot be used (a broken chain, a foreign object at its end, a
newer writer's). Nothing is ended because of such a save: no receipt speaks of it. Source: storage.md 4.4
"Side branch"; docs/design/0014-what-the-log-may-let-go.md.
"""

from typing import Final

from session_service.base.errors import FenceMoved, SessionError, StorageRefused
from session_service.base.log import get_logger
from session_service.control.parts import Parts
from session_service.control.progress import while_moving
from session_service.control.sessions import Live
from session_service.ports.checkpoints import SavePlan

UNUSABLE: Final = frozenset(
    {
        "chain_broken",
        "format_error",
        "key_missing",
        "limit_reached",
        "malformed",
        "newer_service_needed",
        "not_authentic",
        "object_damaged",
        "wrong_key",
    }
)
"""What storage says of a log that is there and cannot be used. Not: a store that does not answer."""


def calls_for_it(exc: BaseException) -> bool:
    """Return whether a save that failed with this will fail again, while a save beside the log may do."""
    if isinstance(exc, FenceMoved):
        return True
    return isinstance(exc, StorageRefused) and exc.facts.get("storage_code") in UNUSABLE


async def save_beside(parts: Parts, live: Live, why: SessionError) -> str:
    """Save what a frozen desktop holds beside the log; return what its user and administrators are to read.

    Raises:
        SessionError, TimeoutError: it was not saved there either.
    """
    assert live.handle is not None, "a save was tried"
    plan = SavePlan(
        workspace=live.workspace,
        session_id=live.record.id,
        fence=live.record.fence,
        home=live.handle.home,
        reason="conflict",
        frozen=True,
    )
    async with live.saving:
        result = await while_moving(lambda told: parts.checkpoints.save(plan, progress=told))
    info = result.info
    get_logger().warning(
        "checkpoint.saved_beside",
        session_id=live.record.id,
        seq=info.seq,
        object=info.side,
        error=str(why),
    )
    lacks = f" {info.unreadable} paths could not be read." if info.unreadable else ""
    if info.seq:
        where = f"Saved beside the log as conflict {info.seq} ({info.side}).{lacks}"
        return f"{where} The desktop is kept and frozen, and is not ended because of it. {why}"
    where = f"The log cannot be used. Everything is saved whole beside it ({info.side}).{lacks}"
    until = "The desktop is kept and frozen until the log is right again; see 'Upkeep' in docs/running.md."
    return f"{where} {until} {why}"
