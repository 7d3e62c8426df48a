"""Routes of signing in and out: setup, password, devices. Not accounts of others (`accounts.py`).

Unknown accounts, disabled ones and wrong passwords get the same answer after the same work. Signing out
cuts the links of that browser and holds its session: leaving a device is not ending a desktop.
"""

from dataclasses import replace
from typing import Final, NoReturn

from session_service.base import errors, log
from session_service.base.ids import DeviceId
from session_service.core.changes import ForgetSignIns, PutSignIn, PutUser, Unit, Write
from session_service.core.records import SignIn, User
from session_service.http import addresses, answers, asks, audit, devices, limits, render, secrets, setup
from session_service.http.callers import SCOPES_OF_ROLE, Caller, cookie_name
from session_service.http.instants import iso_or_none
from session_service.http.passwords import check_form
from session_service.http.routes import Exchange, Reply
from session_service.http.sessions import cut_links
from session_service.http.throttle import Throttle, Verdict, account_key

SETUP_KEY: Final = "setup"


async def set_up(exchange: Exchange) -> Reply:
    """Make the administrator with the code from the terminal, and sign in."""
    ask = exchange.body(asks.SetupAsk)
    services = exchange.services
    if not await setup.is_needed(services.registry):
        raise errors.SetupDone()
    _begin(exchange, services.setup_tries, SETUP_KEY)
    now = services.clock.wall_ms()
    used_up = await setup.use_up(services.registry, code=ask.code, now_ms=now)
    services.setup_tries.give_back(SETUP_KEY)
    check_form(ask.password, name=ask.name)
    password_hash = await services.passwords.hash(ask.password)
    user, writes = setup.new_account(
        services.ids,
        tenant_id=None,
        name=ask.name,
        role="administrator",
        password_hash=password_hash,
        now_ms=now,
    )
    secret, sign_in = _new_sign_in(exchange, user)
    written = audit.entry(
        exchange, "setup.done", actor=f"user:{user.id}", user_id=user.id, address=_address(exchange)
    )
    try:
        await services.registry.commit(
            Unit(writes=(used_up, *writes, PutSignIn(sign_in=sign_in)), audit=(written,))
        )
    except errors.Conflict as exc:
        raise errors.SetupDone("Another page used this code at the same moment.") from exc
    log.get_logger().info("setup.done", user_id=user.id)
    return _signed_in(exchange, user, secret, sign_in, status=201)


async def sign_in(exchange: Exchange) -> Reply:
    """Sign in with account and password."""
    ask = exchange.body(asks.SignInAsk)
    services = exchange.services
    name = ask.name.strip()
    account, address_key = account_key(name), addresses.throttle_key(_address(exchange))
    _begin(exchange, services.address_tries, address_key)
    verdict = _begin(exchange, services.pair_tries, _pair(exchange, name))
    _begin(exchange, services.account_tries, account)  # last: who is paused himself pauses nobody else
    user = await services.registry.user_by_name(name)
    right = await services.passwords.check(user.password_hash if user else None, ask.password)
    if user is None or not right or user.disabled:
        await _refuse(exchange, user, verdict)
    services.pair_tries.forgive(_pair(exchange, name))
    services.account_tries.give_back(account)
    services.address_tries.give_back(address_key)
    secret, fresh = _new_sign_in(exchange, user)
    writes: list[Write] = [PutSignIn(sign_in=fresh), *await _oldest_to_forget(exchange, user)]
    written = audit.entry(
        exchange,
        "user.signed_in",
        actor=f"user:{user.id}",
        user_id=user.id,
        address=_address(exchange),
        device=fresh.device_label,
    )
    await services.registry.commit(Unit(writes=tuple(writes), audit=(written,)))
    log.get_logger().info("user.signed_in", user_id=user.id)
    await _rehash(exchange, user, ask.password)
    return _signed_in(exchange, user, secret, fresh, status=200)


async def _refuse(exchange: Exchange, user: User | None, verdict: Verdict) -> NoReturn:
    written = audit.entry(
        exchange,
        "user.refused",
        actor="nobody",
        user_id=user.id if user else None,
        address=_address(exchange),
        known=user is not None,
    )
    await audit.record(exchange, written)
    log.get_logger().warning("user.refused", address=_address(exchange))
    raise errors.WrongPassword(tries_left=verdict.tries_left, pause_s=verdict.pause_s)


def _begin(exchange: Exchange, throttle: Throttle, key: str) -> Verdict:
    verdict = throttle.begin(key, now_ms=exchange.services.clock.boot_ms())
    if not verdict.allowed:
        raise errors.TooManyAttempts(retry_after_s=round(verdict.pause_s, 1))
    return verdict


def _pair(exchange: Exchange, name: str) -> str:
    """Return what is counted of an account at an address; no address has a space."""
    return f"{addresses.throttle_key(_address(exchange))} {account_key(name)}"


def _address(exchange: Exchange) -> str:
    uid = addresses.socket_uid(exchange.request)
    if uid is not None:
        return f"uid {uid}"
    return addresses.client_address(exchange.request, exchange.services.settings)


def _new_sign_in(exchange: Exchange, user: User) -> tuple[str, SignIn]:
    services = exchange.services
    secret, now = secrets.text_of(services.ids.secret()), services.clock.wall_ms()
    return secret, SignIn(
        hash=secrets.hash_of("sign-in", secret),
        user_id=user.id,
        device_id=DeviceId(services.ids.ulid()),
        device_label=devices.label_of(exchange.request.headers.get("User-Agent", "")),
        created_at_ms=now,
        last_seen_ms=now,
        expires_at_ms=now + round(limits.SIGN_IN_S_MAX * 1000),
    )


async def _oldest_to_forget(exchange: Exchange, user: User) -> list[ForgetSignIns]:
    present = sorted(await exchange.services.registry.sign_ins(user.id), key=lambda each: each.last_seen_ms)
    over = len(present) + 1 - limits.SIGN_INS_PER_USER_MAX
    return [ForgetSignIns(hash=each.hash) for each in present[: max(0, over)]]


async def _rehash(exchange: Exchange, user: User, password: str) -> None:
    """Keep the password under today's parameters; it is only in our hands at this moment."""
    services = exchange.services
    if not services.passwords.is_outdated(user.password_hash):
        return
    stronger = replace(
        user, password_hash=await services.passwords.hash(password), generation=user.generation + 1
    )
    try:
        await services.registry.commit(Unit(writes=(PutUser(user=stronger, expected=user.generation),)))
    except (errors.Conflict, errors.RegistryUnavailable):
        pass  # the next sign-in tries again


def _signed_in(exchange: Exchange, user: User, secret: str, fresh: SignIn, *, status: int) -> Reply:
    settings = exchange.services.settings
    caller = Caller(
        user=user,
        via="cookie",
        scopes=SCOPES_OF_ROLE[user.role],
        device_id=fresh.device_id,
        device_label=fresh.device_label,
        address="",
        expires_at_ms=fresh.expires_at_ms,
        sign_in=fresh,
    )
    return Reply(
        body=_me(caller),
        status=status,
        cookie=(cookie_name(settings), secret, round(limits.SIGN_IN_S_MAX)),
    )


def _me(caller: Caller) -> answers.MeOut:
    return answers.MeOut(
        user=render.user(caller.user),
        via=caller.via,
        scopes=sorted(caller.scopes),
        device_id=caller.device_id,
        device_label=caller.device_label,
        expires_at=iso_or_none(caller.expires_at_ms),
    )


async def me(exchange: Exchange) -> answers.MeOut:
    """Say who the caller is."""
    return _me(exchange.caller)


async def list_sign_ins(exchange: Exchange) -> answers.SignInsOut:
    """List the browsers in which one is signed in, the latest first."""
    caller, now = exchange.caller, exchange.services.clock.wall_ms()
    present = [
        each for each in await exchange.services.registry.sign_ins(caller.user.id) if now < each.expires_at_ms
    ]
    present.sort(key=lambda each: each.last_seen_ms, reverse=True)
    return answers.SignInsOut(
        items=[render.sign_in(each, this_one=each.device_id == caller.device_id) for each in present],
        next_cursor=None,
    )


async def sign_out(exchange: Exchange) -> Reply:
    """Sign this browser out; a desktop that it shows is held."""
    caller = exchange.caller
    if caller.sign_in is None:
        raise errors.BadInput("Only a browser signs out; a token is revoked.")
    await _forget(exchange, ForgetSignIns(hash=caller.sign_in.hash), everywhere=False)
    await cut_links(exchange, caller.user.id, device_id=caller.device_id, reason="signed out")
    return Reply(body=None, cookie=(cookie_name(exchange.services.settings), "", 0))


async def sign_out_everywhere(exchange: Exchange) -> Reply:
    """Sign all browsers out; the desktops that they show are held."""
    caller = exchange.caller
    if caller.sign_in is None:
        raise errors.BadInput("Only a browser signs out; a token is revoked.")
    await _forget(exchange, ForgetSignIns(user_id=caller.user.id), everywhere=True)
    await cut_links(exchange, caller.user.id, reason="signed out everywhere")
    return Reply(body=None, cookie=(cookie_name(exchange.services.settings), "", 0))


async def forget_device(exchange: Exchange) -> Reply:
    """Sign one of one's browsers out from another."""
    caller, device = exchange.caller, exchange.request.match_info["device_id"]
    present = await exchange.services.registry.sign_ins(caller.user.id)
    found = next((each for each in present if each.device_id == device), None)
    if found is None:
        raise errors.NotFound()
    await _forget(exchange, ForgetSignIns(hash=found.hash), everywhere=False)
    await cut_links(exchange, caller.user.id, device_id=found.device_id, reason="signed out")
    return Reply(body=None)


async def _forget(exchange: Exchange, what: ForgetSignIns, *, everywhere: bool) -> None:
    user = exchange.caller.user
    written = audit.entry(exchange, "user.signed_out", user_id=user.id, everywhere=everywhere)
    await exchange.services.registry.commit(Unit(writes=(what,), audit=(written,)))
    log.get_logger().info("user.signed_out", user_id=user.id, everywhere=everywhere)


async def change_password(exchange: Exchange) -> Reply:
    """Change one's password; every other sign-in ends, and what they show is held."""
    ask = exchange.body(asks.PasswordAsk)
    caller, services = exchange.caller, exchange.services
    if caller.sign_in is None:
        raise errors.NotAllowed("A password is changed in a signed-in browser, not with a token.")
    user = caller.user
    verdict = _begin(exchange, services.pair_tries, _pair(exchange, user.name))
    if not await services.passwords.check(user.password_hash, ask.current):
        await _refuse(exchange, user, verdict)
    services.pair_tries.forgive(_pair(exchange, user.name))
    check_form(ask.new, name=user.name)
    changed = replace(
        user, password_hash=await services.passwords.hash(ask.new), generation=user.generation + 1
    )
    secret, fresh = _new_sign_in(exchange, changed)
    fresh = replace(fresh, device_id=caller.device_id)
    writes = (
        PutUser(user=changed, expected=user.generation),
        ForgetSignIns(user_id=user.id),
        PutSignIn(sign_in=fresh),
    )
    written = audit.entry(exchange, "user.password_changed", user_id=user.id)
    await services.registry.commit(Unit(writes=writes, audit=(written,)))
    log.get_logger().info("user.changed", user_id=user.id)
    await cut_links(exchange, user.id, but_device_id=caller.device_id, reason="password changed")
    return _signed_in(exchange, changed, secret, fresh, status=200)
