"""Routes of accounts and API tokens.

Not sign-in (`sign_in.py`). Accounts are disabled, not deleted: ids stand in audit records and receipts for
ever. The last administrator can be neither disabled nor made less.
"""

from dataclasses import replace
from typing import Final

from session_service.base import errors, log
from session_service.base.ids import UserId
from session_service.core.changes import ForgetSignIns, PutApiToken, PutSetting, PutUser, Unit, Write
from session_service.core.records import ApiToken, User
from session_service.http import answers, asks, audit, cursors, limits, render, secrets, setup
from session_service.http.callers import NOBODY_YET, SCOPES_OF_ROLE
from session_service.http.passwords import check_form
from session_service.http.routes import Exchange, Reply, Services
from session_service.http.serve import check_generation, etag
from session_service.http.sessions import cut_links

_MAKER: Final = "token.maker."
"""A setting of the registry per token that a token made, by its id: which one."""


async def list_users(exchange: Exchange) -> answers.UsersOut:
    """List accounts by id."""
    query = exchange.query(asks.UsersQuery)
    after = cursors.read(query.cursor) or ""
    rest = sorted(
        (user for user in await exchange.services.registry.users() if user.id > after),
        key=lambda user: user.id,
    )
    page = rest[: query.limit]
    more = len(rest) > query.limit
    return answers.UsersOut(
        items=[render.user(user) for user in page],
        next_cursor=cursors.write(page[-1].id) if more else None,
    )


async def read_user(exchange: Exchange) -> Reply:
    """Read one account."""
    user = await _user(exchange)
    return Reply(body=render.user(user), headers={"ETag": etag(user.generation)})


async def _user(exchange: Exchange) -> User:
    user = await exchange.services.registry.user(UserId(exchange.request.match_info["user_id"]))
    if user is None:
        raise errors.NotFound()
    return user


async def create_user(exchange: Exchange) -> Reply:
    """Make an account and its default workspace."""
    ask = exchange.body(asks.UserAsk)
    services = exchange.services
    check_form(ask.password, name=ask.name)
    if await services.registry.user_by_name(ask.name) is not None:
        raise errors.NameTaken(name=ask.name)
    creator = exchange.caller.user
    user, writes = setup.new_account(
        services.ids,
        tenant_id=None if creator.id == NOBODY_YET else creator.tenant_id,
        name=ask.name,
        role=ask.role,
        password_hash=await services.passwords.hash(ask.password),
        now_ms=services.clock.wall_ms(),
    )
    written = audit.entry(exchange, "user.created", user_id=user.id, role=user.role, name=user.name)
    async with services.accounts:
        if await services.registry.user_by_name(ask.name) is not None:
            raise errors.NameTaken(name=ask.name)
        await services.registry.commit(Unit(writes=writes, audit=(written,)))
    log.get_logger().info("user.created", user_id=user.id, role=user.role)
    return Reply(
        body=render.user(user),
        status=201,
        headers={"ETag": etag(user.generation), "Location": f"/api/v1/users/{user.id}"},
    )


async def change_user(exchange: Exchange) -> Reply:
    """Change role, password or standing of an account; its sign-ins end, and its links are cut."""
    ask = exchange.body(asks.UserChangeAsk)
    services = exchange.services
    async with services.accounts:
        user = await _user(exchange)
        check_generation(exchange, user.generation)
        changed = replace(
            user,
            role=ask.role or user.role,
            disabled=user.disabled if ask.disabled is None else ask.disabled,
            generation=user.generation + 1,
        )
        if ask.password is not None:
            check_form(ask.password, name=user.name)
            changed = replace(changed, password_hash=await services.passwords.hash(ask.password))
        await check_an_administrator_is_left(exchange, user, changed)
        written = audit.entry(
            exchange,
            "user.changed",
            user_id=user.id,
            role=changed.role,
            disabled=changed.disabled,
            password=ask.password is not None,
        )
        writes: list[Write] = [PutUser(user=changed, expected=user.generation)]
        loses_access = changed.disabled or ask.password is not None or changed.role != user.role
        if loses_access:
            writes.append(ForgetSignIns(user_id=user.id))
        await services.registry.commit(Unit(writes=tuple(writes), audit=(written,)))
    log.get_logger().info("user.changed", user_id=user.id)
    if loses_access:
        await cut_links(exchange, user.id, reason="account changed")
    return Reply(body=render.user(changed), headers={"ETag": etag(changed.generation)})


async def check_an_administrator_is_left(exchange: Exchange, user: User, changed: User) -> None:
    """Raise Conflict if this change would leave nobody who can administer."""
    stays = changed.role == "administrator" and not changed.disabled
    if stays or user.role != "administrator" or user.disabled:
        return
    others = [
        each
        for each in await exchange.services.registry.users()
        if each.id != user.id and each.role == "administrator" and not each.disabled
    ]
    if not others:
        raise errors.Conflict("This is the last administrator; make another one first.")


async def list_tokens(exchange: Exchange) -> answers.TokensOut:
    """List one's tokens; administrators see everybody's."""
    query = exchange.query(asks.Page)
    caller = exchange.caller
    user_id = None if caller.may_administer else caller.user.id
    after = cursors.read(query.cursor) or ""
    present = await exchange.services.registry.api_tokens(user_id)
    rest = sorted((each for each in present if each.id > after), key=lambda each: each.id)
    page = rest[: query.limit]
    more = len(rest) > query.limit
    return answers.TokensOut(
        items=[render.token(each) for each in page],
        next_cursor=cursors.write(page[-1].id) if more else None,
    )


async def create_token(exchange: Exchange) -> Reply:
    """Make a token; it is in this answer and nowhere else."""
    ask = exchange.body(asks.TokenAsk)
    services, now = exchange.services, exchange.services.clock.wall_ms()
    owner = await _token_owner(exchange, ask)
    if exchange.caller.via == "token" and not exchange.caller.may_administer:
        # Nobody would think of it when the first one is revoked.
        raise errors.NotAllowed("A token makes no token.", scope_needed="admin")
    excess = set(ask.scopes) - (SCOPES_OF_ROLE[owner.role] & _grantable(exchange))
    if excess:
        raise errors.NotAllowed(scope_needed=min(excess))
    present = await services.registry.api_tokens(owner.id)
    if sum(each.revoked_at_ms is None for each in present) >= limits.API_TOKENS_PER_USER_MAX:
        raise errors.Conflict("There are too many tokens; revoke one first.")
    text = secrets.TOKEN_PREFIX + secrets.text_of(services.ids.secret())
    token = ApiToken(
        id=services.ids.ulid(),
        user_id=owner.id,
        name=ask.name,
        scopes=tuple(sorted(set(ask.scopes))),
        hash=secrets.hash_of("token", text),
        created_at_ms=now,
        expires_at_ms=_token_end(exchange, ask, now),
    )
    written = audit.entry(
        exchange, "token.created", user_id=owner.id, token=token.id, scopes=" ".join(token.scopes)
    )
    writes: list[Write] = [PutApiToken(token=token)]
    maker = exchange.caller.token
    if maker is not None:
        writes.append(PutSetting(name=_MAKER + token.id, value=maker.id.encode(), expected=None))
    await services.registry.commit(Unit(writes=tuple(writes), audit=(written,)))
    body = answers.NewTokenOut(token=text, **render.token(token).model_dump())
    return Reply(body=body, status=201)


async def _token_owner(exchange: Exchange, ask: asks.TokenAsk) -> User:
    caller = exchange.caller
    if ask.user_id is None or ask.user_id == caller.user.id:
        if caller.user.id == NOBODY_YET:
            raise errors.Conflict(
                "A token belongs to an account, and there is no administrator yet: name an account, or set "
                "the service up."
            )
        return caller.user
    if caller.via != "socket":
        raise errors.NotAllowed("A token for another account is made on the machine itself only.")
    owner = await exchange.services.registry.user(UserId(ask.user_id))
    if owner is None or owner.disabled:
        raise errors.NotFound()
    return owner


def _grantable(exchange: Exchange) -> frozenset[str]:
    """A token can never make one that may do more than itself."""
    caller = exchange.caller
    return caller.scopes if caller.via == "token" else SCOPES_OF_ROLE["administrator"]


def _token_end(exchange: Exchange, ask: asks.TokenAsk, now_ms: int) -> int | None:
    """A token that ends makes none that lives longer than itself."""
    asked = None if ask.expires_in_s is None else now_ms + round(ask.expires_in_s * 1000)
    own = exchange.caller.expires_at_ms if exchange.caller.via == "token" else None
    ends = [each for each in (asked, own) if each is not None]
    return min(ends) if ends else None


async def revoke_token(exchange: Exchange) -> Reply:
    """Revoke a token, and every token that was made with it; their links are cut and their live streams end
    within two seconds.
    """
    caller, services = exchange.caller, exchange.services
    present = await services.registry.api_tokens(None if caller.may_administer else caller.user.id)
    found = next((each for each in present if each.id == exchange.request.match_info["token_id"]), None)
    if found is None:
        raise errors.NotFound()
    family = await _family(services, found)
    now_ms = services.clock.wall_ms()
    writes = tuple(
        PutApiToken(token=replace(each, revoked_at_ms=now_ms))
        for each in family
        if each.revoked_at_ms is None
    )
    written = tuple(
        audit.entry(exchange, "token.revoked", user_id=write.token.user_id, token=write.token.id)
        for write in writes
    )
    if writes:
        await services.registry.commit(Unit(writes=writes, audit=written))
    for each in family:
        await cut_links(exchange, each.user_id, device_id=each.id, reason="token revoked")
    return Reply(body=None)


async def _family(services: Services, first: ApiToken) -> list[ApiToken]:
    """Return a token and those that were made with it, or with one of them: they are the same right."""
    others = [
        each
        for each in await services.registry.api_tokens(first.user_id)
        if each.revoked_at_ms is None and each.id != first.id
    ]
    makers = {each.id: await services.registry.setting(_MAKER + each.id) for each in others}
    family, known = [first], {first.id.encode()}
    while more := [each for each in others if makers[each.id] in known and each not in family]:
        family += more
        known |= {each.id.encode() for each in more}
    return family
