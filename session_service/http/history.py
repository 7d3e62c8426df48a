"""Routes of what was and what is wrong: receipts, events, alarms, and how the service is."""

from collections.abc import Sequence

from session_service.base import errors
from session_service.base.ids import SessionId
from session_service.core.records import AuditRecord
from session_service.http import answers, asks, cursors, limits, render, setup
from session_service.http.callers import Caller
from session_service.http.instants import iso
from session_service.http.routes import Exchange, Services, session_id
from session_service.http.store_look import traffic_of, watching_words
from session_service.ports.checkpoints import StoreStatus


async def list_receipts(exchange: Exchange) -> answers.ReceiptsOut:
    """List receipts, newest first; operators see everybody's."""
    query = exchange.query(asks.ReceiptsQuery)
    caller = exchange.caller
    user_id = None if caller.may_operate and not query.mine else caller.user.id
    first = cursors.read_number(query.cursor) or 0
    if first > limits.RECEIPTS_BACK_MAX:
        raise errors.BadInput("This cursor is not one of ours.", field="cursor")
    wanted = first + query.limit + 1
    found = await exchange.services.registry.receipts(user_id=user_id, limit=wanted)
    page = found[first : first + query.limit]
    more = len(found) == wanted
    return answers.ReceiptsOut(
        items=[render.receipt(each) for each in page],
        next_cursor=cursors.write(first + query.limit) if more else None,
    )


async def read_receipt(exchange: Exchange) -> answers.ReceiptOut:
    """Read the receipt of one session."""
    found = await exchange.services.registry.receipt(session_id(exchange))
    if found is None or not (found.user_id == exchange.caller.user.id or exchange.caller.may_operate):
        raise errors.NotFound()
    return render.receipt(found)


async def list_events(exchange: Exchange) -> answers.EventsOut:
    """List audit records: all for operators, else those that concern the caller."""
    query = exchange.query(asks.EventsQuery)
    place = cursors.read_number(query.cursor) or 0
    look = _Look(exchange.services, exchange.caller)
    items: list[answers.EventOut] = []
    seen = 0
    while len(items) < query.limit and seen < limits.AUDIT_SCAN_MAX:
        batch: Sequence[AuditRecord] = await exchange.services.registry.audit(
            after=place,
            limit=limits.AUDIT_BATCH,
            session_id=SessionId(query.session_id) if query.session_id else None,
            newest_first=query.newest_first,
        )
        for record in batch:
            seen, place = seen + 1, record.seq
            if await look.may_see(record):
                items.append(render.event(record))
                if len(items) == query.limit:
                    break
        if len(batch) < limits.AUDIT_BATCH and len(items) < query.limit:
            return answers.EventsOut(items=items, next_cursor=None)
    ended = query.newest_first and place <= 1
    return answers.EventsOut(items=items, next_cursor=None if ended else cursors.write(place))


class _Look:
    """Decides which audit records a caller may see; looks each session's owner up once."""

    def __init__(self, services: Services, caller: Caller) -> None:
        self._registry = services.registry
        self._caller = caller
        self._own: dict[str, bool] = {}

    async def may_see(self, record: AuditRecord) -> bool:
        user_id = self._caller.user.id
        entry = record.entry
        if self._caller.may_operate or user_id in {entry.user_id, entry.actor.partition(":")[2]}:
            return True
        if entry.session_id is None or entry.user_id is not None:
            return False
        if entry.session_id not in self._own:
            session = await self._registry.session(entry.session_id)
            self._own[entry.session_id] = session is not None and session.user_id == user_id
        return self._own[entry.session_id]


async def list_alarms(exchange: Exchange) -> answers.AlarmsOut:
    """List what needs a person now."""
    return render.alarms(exchange.services.control.alarms())


async def status(exchange: Exchange) -> answers.StatusOut:
    """Say how the service is; without a sign-in only what a sign-in page needs."""
    services, caller = exchange.services, exchange.caller_or_none
    return answers.StatusOut(
        ready=await services.control.ready(),
        setup_needed=await _setup_needed(services),
        time=iso(services.clock.wall_ms()),
        storage=_storage(await services.store_look.status(), caller),
        version=services.settings.version if caller else None,
        node_id=services.settings.node_id if caller else None,
        node_name=services.settings.node_name if caller else None,
        alarms=len(services.control.alarms()) if caller and caller.may_operate else None,
    )


async def _setup_needed(services: Services) -> bool:
    try:
        return await setup.is_needed(services.registry)
    except errors.RegistryUnavailable:
        return False  # a page must not offer a set-up when nobody knows


def _checks(found: StoreStatus) -> list[answers.StoreCheckOut]:
    return [
        answers.StoreCheckOut(name=name, passed=passed, needed=needed, words=words)
        for name, passed, needed, words in found.verdict
    ]


def _storage(found: StoreStatus | None, caller: Caller | None) -> answers.StorageOut:
    for_operator = caller is not None and caller.may_operate
    return answers.StorageOut(
        usable=found.usable if found else None,
        error=found.error if found and for_operator else "",
        url=found.url if found and for_operator else None,
        key_id=found.key_id if found and for_operator else None,
        key_backed_up=found.key_backed_up if found and for_operator else None,
        watching=watching_words(found.watching) if found and for_operator else None,
        traffic=traffic_of(found.traffic) if found and found.traffic and for_operator else None,
        checks=_checks(found) if found and for_operator else None,
    )
