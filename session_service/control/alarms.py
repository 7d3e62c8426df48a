"""Alarms: something needs a person. Each has one cause, is raised once, and closes itself when the cause is
gone.

Not delivery: `app` gives a callback (webhook, command) and the page reads the list. Raising is cheap and may
be repeated.
"""

from collections.abc import Callable

from session_service.base.log import get_logger
from session_service.core import limits
from session_service.core.views import Alarm
from session_service.ports.clock import Clock, Ids

Listener = Callable[[Alarm, bool], None]

ACTIONS = {
    "storage": "Bring the object store back; everything waits and goes on by itself.",
    "registry": "Free disk space or repair the registry's disk; the service goes on by itself.",
    "host": "The part that runs desktops does not answer; it is started again. Desktops go on.",
    "close": "Read the error; it is tried again for ever; nothing is ended before its files are saved.",
    "incomplete": "Make the named files readable, or accept the list by name.",
    "start": "Read the error; the start is tried again. Its user may end it.",
    "home": "Something outside writes into the home of a closing desktop; stop it. It is saved again.",
    "freeze": "A process cannot be frozen; look at it on the machine. The desktop is kept.",
    "fence": "Another owner wrote to this workspace's log. Stop the other service; nothing is ended here.",
    "stale": "A desktop of an older fence runs. It is kept; save its files aside before it is ended.",
    "orphan": "A desktop runs that no record explains. It is kept until somebody decides.",
    "lease": "A session's lease did not agree with its record; it was restored.",
    "unsettled": "The registry was restored and this session is not settled yet; nothing of it is ended.",
    "saved_age": "Files of a running desktop were not saved for minutes though the store answers.",
    "disk_low": "Free space on the state folder's disk, or end the named desktops with save.",
    "second_store": "Look at `session-service replica status`; the main store and all sessions go on.",
    "upkeep": "Nothing of the named workspace is collected; see 'Upkeep' in docs/running.md. Saving goes on.",
    "clocks_apart": "Set this machine's clock; nothing is forgotten until both agree within a day.",
    "task": "A part of control failed; it is started again. Report the error.",
}


class Alarms:
    """The alarms that are raised now, keyed by kind and session."""

    def __init__(self, *, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self._raised: dict[tuple[str, str], Alarm] = {}
        self._listeners: list[Listener] = []
        self._log = get_logger()

    def listen(self, listener: Listener) -> None:
        """Call `listener(alarm, raised)` at each change; it must not block."""
        self._listeners.append(listener)

    def list(self) -> list[Alarm]:
        """Return what is raised now, oldest first."""
        return sorted(self._raised.values(), key=lambda alarm: (alarm.since_ms, alarm.id))

    def raise_(
        self,
        kind: str,
        detail: str,
        *,
        session_id: str | None = None,
        facts: tuple[tuple[str, str | int | float | bool | None], ...] = (),
    ) -> None:
        """Raise an alarm, or keep the one that is raised for this cause with the newest detail."""
        key = (kind, session_id or "")
        known = self._raised.get(key)
        if known is not None and known.detail == detail and known.facts == facts:
            return
        if known is None and len(self._raised) >= limits.ALARMS_MAX:
            return
        alarm = Alarm(
            id=known.id if known is not None else self._ids.ulid(),
            kind=kind,
            since_ms=known.since_ms if known is not None else self._clock.wall_ms(),
            detail=detail,
            action=ACTIONS[kind],
            session_id=session_id,
            facts=facts,
        )
        self._raised[key] = alarm
        if known is None:
            self._log.error("alarm.raised", kind=kind, session_id=session_id, detail=detail)
            self._tell(alarm, raised=True)

    def clear(self, kind: str, *, session_id: str | None = None) -> bool:
        """The cause is gone; not raised is done. Say whether it was raised."""
        alarm = self._raised.pop((kind, session_id or ""), None)
        if alarm is not None:
            self._log.info("alarm.cleared", kind=kind, session_id=session_id)
            self._tell(alarm, raised=False)
        return alarm is not None

    def clear_session(self, session_id: str) -> None:
        """A session is closed: everything that was raised for it is over."""
        for kind, named in list(self._raised):
            if named == session_id:
                self.clear(kind, session_id=session_id)

    def _tell(self, alarm: Alarm, *, raised: bool) -> None:
        for listener in self._listeners:
            listener(alarm, raised)
