"""Structured events from a closed list: console for people, JSON for machines.

Not prose: an event is `noun.past_participle` with fields. One canonical line ends each link, checkpoint
and session. Never screen
content, keys, tokens or file contents. A new event is added here first; a test of the architecture
compares the calls.
"""

import importlib
import logging
import sys
from typing import Any, Final


def _import_structlog() -> Any:
    """Import structlog without rich, which it would draw the errors of a console with.

    That is a third of a second of processor time at the start of each part, most of which write JSON. A
    module that is None in this table counts as not installed.
    """
    hidden = "structlog" not in sys.modules and "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]  # documented: "import rich" then fails
    try:
        return importlib.import_module("structlog")
    finally:
        if hidden:
            del sys.modules["rich"]


structlog: Final = _import_structlog()

EVENTS: Final = frozenset(
    {
        # parts and their life
        "service.started",
        "service.ready",
        "service.stopping",
        "service.stopped",
        "part.started",
        "part.ended",
        "part.refused",
        "part.priority_refused",
        "part.replaced",
        "gateway.joined",
        "gateway.left",
        "certificate.loaded",
        "certificate.refused",
        "listen.limited",
        "loop.stalled",
        "task.failed",
        "configuration.refused",
        # sessions
        "session.started",
        "session.changed",
        "session.activated",
        "session.held",
        "session.resumed",
        "session.taken_over",
        "session.closing",
        "session.step_done",
        "session.step_failed",
        "session.closed",
        "session.adopted",
        "session.hold_changed",
        "session.reused",
        "session.settled",
        "session.explained",
        # desktops and host
        "desktop.launched",
        "desktop.adopted",
        "desktop.frozen",
        "desktop.thawed",
        "desktop.asked",
        "desktop.ended",
        "desktop.wiped",
        "desktop.died",
        "desktop.failed",
        "desktop.refused",
        "desktop.discarded",
        "network.limited",
        # links
        "link.opened",
        "link.resumed",
        "link.provisional",
        "link.ended",
        "link.refused",
        "keys.released",
        "ticket.issued",
        "ticket.refused",
        # checkpoints and store
        "checkpoint.verified",
        "checkpoint.failed",
        "checkpoint.saved_beside",
        "checkpoint.incomplete",
        "checkpoint.skipped",
        "upkeep.finished",
        "upkeep.failed",
        "replica.copied",
        "replica.failed",
        "restore.done",
        "restore.failed",
        "store.probed",
        "store.refused",
        "store.failed",
        "store.recovered",
        "workspace.taken_over",
        "receipt.written",
        "key.created",
        "key.recoverable",
        "erasure.swept",
        "erasure.unswept",
        "key.used",
        # registry
        "registry.opened",
        "registry.migrated",
        "registry.failed",
        "registry.recovered",
        "registry.backed_up",
        "node.beat",
        "node.returned",
        "reconcile.done",
        "reconcile.failed",
        # people
        "user.signed_in",
        "user.refused",
        "user.created",
        "user.changed",
        "user.signed_out",
        "setup.offered",
        "setup.done",
        "request.done",
        "request.failed",
        # alarms
        "alarm.raised",
        "alarm.cleared",
        "alarm.sent",
        "alarm.unsent",
    }
)


def task_failed(name: str, error: BaseException) -> None:
    """Tell of a task that ended by an error: the reporter of `aio.Tasks` where nothing more is known."""
    get_logger().error("task.failed", task=name, error=repr(error))


def configure(*, json: bool, level: str = "info", part: str = "service") -> None:
    """Set up structlog once per process; `part` is bound to every event. Levels: debug, info, warning,
    error.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=True)]
        if json
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # With rich the default shows the variables of each frame: passwords, tickets, keys.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(part=part)


def get_logger() -> Any:
    """Return the process's logger; bind the ids you know before you log."""
    return structlog.get_logger()
