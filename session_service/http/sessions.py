"""Routes of sessions: list, start, read, and the acts on them.

Not the rules of a session: control decides. Here it is decided whose session somebody may see or act on,
and an act on somebody else's is written to the audit log before it is done.
"""

import base64
from typing import Final

from session_service.base import errors, log
from session_service.base.ids import UserId, WorkspaceId
from session_service.core.records import OPEN_STATES, Session, State, Workspace
from session_service.core.shards import shard_of
from session_service.core.views import SessionView
from session_service.http import answers, asks, cursors, render
from session_service.http.audit import record_operator_act
from session_service.http.callers import NOBODY_YET
from session_service.http.instants import iso
from session_service.http.routes import Exchange, Reply, Services, session_id
from session_service.http.serve import check_generation, etag
from session_service.http.workspaces import owned_workspace

DEFAULT_WORKSPACE: Final = "Home"


async def list_sessions(exchange: Exchange) -> answers.SessionsOut:
    """List sessions, newest first."""
    query = exchange.query(asks.SessionsQuery)
    caller, services = exchange.caller, exchange.services
    user_id: UserId | None = caller.user.id
    if caller.may_operate and not query.mine:
        user_id = UserId(query.user_id) if query.user_id else None
    elif query.user_id not in {None, caller.user.id}:
        raise errors.NotAllowed("You see your own sessions only.")
    records = await services.registry.sessions(
        states=_states(query),
        user_id=user_id,
        workspace_id=WorkspaceId(query.workspace_id) if query.workspace_id else None,
        after=cursors.read(query.cursor),
        limit=query.limit + 1,
        newest_first=True,
    )
    page = records[: query.limit]
    open_views = {view.session.id: view for view in await services.control.views(user_id=user_id)}
    names = Names(services)
    items = []
    for record in page:
        view = open_views.get(record.id) or await _view_of(services, record, names)
        items.append(render.session(view, for_operator=caller.may_operate))
    more = len(records) > query.limit
    return answers.SessionsOut(items=items, next_cursor=cursors.write(page[-1].id) if more else None)


def _states(query: asks.SessionsQuery) -> frozenset[State] | None:
    wanted = frozenset(State) if query.state is None else frozenset({State(query.state)})
    if query.open is not None:
        wanted &= OPEN_STATES if query.open else frozenset(State) - OPEN_STATES
    return None if wanted == frozenset(State) else wanted


class Names:
    """Makes views of sessions that control no longer keeps in memory; looks each name up once."""

    def __init__(self, services: Services) -> None:
        self._registry = services.registry
        self._users: dict[str, str] = {}
        self._workspaces: dict[str, str] = {}

    async def closed_view(self, record: Session) -> SessionView:
        """Return what can be shown of a session from its record alone."""
        if record.user_id not in self._users:
            user = await self._registry.user(record.user_id)
            self._users[record.user_id] = user.name if user else ""
        if record.workspace_id not in self._workspaces:
            workspace = await self._registry.workspace(record.workspace_id)
            self._workspaces[record.workspace_id] = workspace.name if workspace else ""
        return SessionView(
            session=record,
            workspace_name=self._workspaces[record.workspace_id],
            user_name=self._users[record.user_id],
        )


async def visible_view(exchange: Exchange) -> SessionView:
    """Return the session that the path names if the caller may see it; else it is not found, whoever owns it.

    Raises:
        NotFound: unknown, or somebody else's and the caller is no operator.
    """
    record = await exchange.services.registry.session(session_id(exchange))
    if record is None or not (record.user_id == exchange.caller.user.id or exchange.caller.may_operate):
        raise errors.NotFound()
    return await _view_of(exchange.services, record, Names(exchange.services))


async def _view_of(services: Services, record: Session, names: Names) -> SessionView:
    try:
        return await services.control.view(record.id)
    except errors.NotFound:
        return await names.closed_view(record)


async def own_view(exchange: Exchange) -> SessionView:
    """Return the session that the path names if it is the caller's own. Raises NotFound, NotAllowed."""
    view = await visible_view(exchange)
    if view.session.user_id != exchange.caller.user.id:
        raise errors.NotAllowed("Only its own user may do this.")
    return view


async def _act(exchange: Exchange, act: str, reason: str) -> SessionView:
    """Check everything that an act on a session needs; an operator's is written down first."""
    view = await visible_view(exchange)
    check_generation(exchange, view.session.generation)
    if view.session.user_id != exchange.caller.user.id:
        await record_operator_act(exchange, view.session, act=act, reason=reason)
    return view


async def _shown(exchange: Exchange, record: Session, *, status: int | None = None) -> Reply:
    view = await _view_of(exchange.services, record, Names(exchange.services))
    body = render.session(view, for_operator=exchange.caller.may_operate)
    return Reply(body=body, status=status, headers={"ETag": etag(view.session.generation)})


async def start(exchange: Exchange) -> Reply:
    """Start a desktop, or return the open session of the workspace."""
    ask = exchange.body(asks.StartAsk)
    services, user = exchange.services, exchange.caller.user
    if user.id == NOBODY_YET:
        raise errors.Conflict(
            "A desktop belongs to an account, and there is no administrator yet whose it could be: set the "
            "service up with the code that it printed, or `users create NAME --role administrator`."
        )
    workspace = await _workspace_to_start(exchange, ask)
    already = await services.registry.sessions(states=OPEN_STATES, workspace_id=workspace.id)
    record = await services.control.start(
        user=user,
        workspace_id=workspace.id,
        template=ask.template,
        geometry=ask.geometry,
        keyboard_layout=ask.keyboard_layout,
        locale=ask.locale,
        time_zone=ask.time_zone,
        from_seq=ask.from_seq,
    )
    new = all(record.id != each.id for each in already)
    reply = await _shown(exchange, record, status=201 if new else 200)
    reply.headers["Location"] = f"/api/v1/sessions/{record.id}"
    return reply


async def _workspace_to_start(exchange: Exchange, ask: asks.StartAsk) -> Workspace:
    if ask.workspace_id is not None:
        workspace = await owned_workspace(exchange, WorkspaceId(ask.workspace_id))
        if workspace.user_id != exchange.caller.user.id:
            raise errors.NotAllowed("A desktop is started by the owner of its workspace.")
        return workspace
    user = exchange.caller.user
    own = await exchange.services.registry.workspaces(user_id=user.id)
    if own:
        return own[0]
    return await exchange.services.control.create_workspace(user=user, name=DEFAULT_WORKSPACE)


async def read(exchange: Exchange) -> Reply:
    """Read one session."""
    view = await visible_view(exchange)
    body = render.session(view, for_operator=exchange.caller.may_operate)
    return Reply(body=body, headers={"ETag": etag(view.session.generation)})


async def disconnect(exchange: Exchange) -> Reply:
    """Cut the session's links; it is held, not ended."""
    ask = exchange.body(asks.ReasonAsk)
    record = (await _act(exchange, "disconnect", ask.reason)).session
    actor = exchange.caller.actor(owner=record.user_id)
    return await _shown(
        exchange, await exchange.services.control.disconnect(record.id, actor=actor, reason=ask.reason)
    )


async def save(exchange: Exchange) -> answers.CheckpointOut:
    """Take a checkpoint now and answer when it was read back."""
    ask = exchange.body(asks.ReasonAsk)
    record = (await _act(exchange, "save", ask.reason)).session
    actor = exchange.caller.actor(owner=record.user_id)
    return render.checkpoint(await exchange.services.control.save_now(record.id, actor=actor))


async def end(exchange: Exchange) -> Reply:
    """Save everything, check it, then end the desktop."""
    ask = exchange.body(asks.ReasonAsk)
    record = (await _act(exchange, "end", ask.reason)).session
    actor = exchange.caller.actor(owner=record.user_id)
    return await _shown(
        exchange, await exchange.services.control.end(record.id, actor=actor, reason=ask.reason)
    )


async def extend(exchange: Exchange) -> Reply:
    """Change what remains of a hold."""
    ask = exchange.body(asks.ExtendAsk)
    record = (await _act(exchange, "extend", ask.reason)).session
    actor = exchange.caller.actor(owner=record.user_id)
    changed = await exchange.services.control.extend(
        record.id, seconds=ask.seconds, actor=actor, reason=ask.reason
    )
    return await _shown(exchange, changed)


async def reuse(exchange: Exchange) -> Reply:
    """Give the kept desktop of a closing session back, as a new session."""
    view = await own_view(exchange)
    check_generation(exchange, view.session.generation)
    record = await exchange.services.control.reuse(view.session.id, user=exchange.caller.user)
    reply = await _shown(exchange, record)
    reply.headers["Location"] = f"/api/v1/sessions/{record.id}"
    return reply


async def accept(exchange: Exchange) -> Reply:
    """Accept by name that some files cannot be saved."""
    ask = exchange.body(asks.AcceptAsk)
    record = (await _act(exchange, "accept", ask.reason)).session
    actor = exchange.caller.actor(owner=record.user_id)
    changed = await exchange.services.control.accept_paths(
        record.id, paths=ask.paths, actor=actor, reason=ask.reason
    )
    return await _shown(exchange, changed)


async def issue_ticket(exchange: Exchange) -> answers.TicketOut:
    """Make the one-use right to open a link to one's own session."""
    ask = exchange.body(asks.TicketAsk)
    view = await own_view(exchange)
    caller = exchange.caller
    issued = await exchange.services.control.issue_ticket(
        view.session.id,
        user=caller.user,
        device_id=caller.device_id,
        device_label=ask.device_label or caller.device_label,
        mode=ask.mode,
    )
    shard = shard_of(view.session.id, exchange.services.settings.gateway_processes)
    return answers.TicketOut(
        ticket=issued.token,
        expires_at=iso(issued.expires_at_ms),
        mode=ask.mode,
        path=f"/s/{shard}/ws",
        stock_path=f"/s/{shard}/t/{issued.token}",
    )


async def picture(exchange: Exchange) -> answers.PictureOut:
    """Show one's own desktop to one's own browser; programs open a link, which is audited each time."""
    caller = exchange.caller
    if caller.via != "cookie":
        raise errors.NotAllowed("A picture is for the signed-in browser; a program opens a link to look on.")
    view = await own_view(exchange)
    found = await exchange.services.control.picture(
        view.session.id, user=caller.user, device_id=caller.device_id
    )
    if not await exchange.services.identification.is_still(caller):
        raise errors.SignInRequired()  # signed out while it was taken
    return answers.PictureOut(
        taken_at=iso(found.taken_at_ms),
        width=found.picture.width,
        height=found.picture.height,
        media_type="image/jpeg",
        data=base64.b64encode(found.picture.jpeg).decode("ascii"),
    )


async def explanation(exchange: Exchange) -> answers.ExplanationOut:
    """Say why the session is as it is, from its audit records."""
    view = await visible_view(exchange)
    lines = await exchange.services.control.explain(view.session.id)
    return answers.ExplanationOut(
        session_id=view.session.id,
        items=[
            answers.ExplainedOut(at=iso(at_ms), words=words, facts=dict(facts))
            for at_ms, words, facts in lines
        ],
    )


async def cut_links(
    exchange: Exchange,
    user_id: UserId,
    *,
    reason: str,
    device_id: str | None = None,
    but_device_id: str | None = None,
) -> None:
    """Cut the links of an account, or of one of its devices, or of all but one; the desktops are held.

    A device that only looks on loses its own links; the session and its client go on.
    Called after the right was withdrawn, so that nothing can be opened again meanwhile. Control closes
    links before it writes; if it cannot write, the end of each link is recorded when the gateway reports
    it, so that failure is no reason to tell somebody that they are still signed in.
    """
    actor = exchange.caller.actor(owner=user_id)
    control = exchange.services.control
    try:
        views = await control.views(user_id=user_id)
    except errors.RegistryUnavailable:
        views = control.open_views(user_id=user_id)  # the right is withdrawn: its links end all the same
    for view in views:
        record = view.session
        if record.state not in (State.STARTING, State.ACTIVE, State.HELD):
            continue
        if device_id not in {None, record.device_id} or (
            but_device_id is not None and record.device_id == but_device_id
        ):
            await exchange.services.control.close_viewers(
                record.id, device_id=device_id, but_device_id=but_device_id
            )
            continue
        try:
            await exchange.services.control.disconnect(record.id, actor=actor, reason=reason)
        except errors.SessionError as exc:
            log.get_logger().warning(
                "request.failed", reference=exchange.reference, session_id=record.id, error=exc.code
            )
