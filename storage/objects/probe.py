"""Ask a store to show what the commit log relies on, before anything is entrusted to it.

Some servers accept `If-None-Match` and ignore it (storage.md 2.4): two owners would then both believe that
they had written the next log entry. So the probe creates twice, races, reads, lists and deletes small
objects of its own, at each start and after every change of the address. It finds out what the store does,
not what it claims.

It proves nothing about durability, and a race won once is evidence, not proof.
Its objects lie under `probe/` with a random name and are removed; nothing else is touched.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from storage.errors import CreateConflict, ObjectExists, ObjectNotFound, StoreError, StoreUnavailable
from storage.objects.names import is_name
from storage.objects.s3 import S3Store
from storage.objects.s3_questions import S3Questions
from storage.objects.store import ObjectStore, ProbeCheck, ProbeVerdict

RACERS = 16
BODY_BYTES = 100_000
LONG_LISTING = 1_005
"""More than one page of every S3 server."""

PAGED_NAMES, NAMES_EACH = 7, 3
"""A listing in three pages, as one of thousands of names has them."""
LISTING_AT_ONCE = 16
EVERY_BYTE = bytes(range(256))

_Check = Callable[["_Probe"], Awaitable[str]]


class _Broken(Exception):
    """The store did something else than it must; the words say what."""


async def probe_whole(store: ObjectStore) -> ProbeVerdict:
    """Ask everything that this kind of store can be asked; as `probe`."""
    if not isinstance(store, S3Store):
        return await probe(store)
    impostor = await store.with_wrong_secret()
    try:
        return await probe(store, impostor=impostor, questions=store.questions())
    finally:
        await impostor.close()


async def probe(
    store: ObjectStore,
    *,
    impostor: ObjectStore | None = None,
    questions: S3Questions | None = None,
    racers: int = RACERS,
    long_listing: bool = False,
) -> ProbeVerdict:
    """Try the store and say whether a repository may rely on it.

    Args:
        store: without the retry wrapper, which would hide what is looked for.
        impostor: the same place with a wrong secret, where there is such a thing.
        questions: what else an S3 server can be asked.
        racers: how many creates of one name at once.
        long_listing: also list more names than one page holds: a thousand writes.

    Raises:
        StoreUnavailable: it could not be asked what is needed; that is no verdict.
    """
    started = time.monotonic()
    asked = _Probe(store, impostor, questions, racers)
    checks: list[tuple[str, bool, _Check]] = [
        ("create_only", True, _Probe.create_only),
        ("create_race", True, _Probe.create_race),
        ("missing", True, _Probe.missing),
        ("read_after_write", True, _Probe.read_after_write),
        ("ranges", True, _Probe.ranges),
        ("empty_object", True, _Probe.empty_object),
        ("list_after_write", True, _Probe.list_after_write),
        ("gone_after_delete", True, _Probe.gone_after_delete),
    ]
    if long_listing:
        checks.append(("long_listing", True, _Probe.long_listing))
    if impostor is not None:
        checks.append(("wrong_secret", False, _Probe.wrong_secret))
    if questions is not None:
        checks += [
            ("listing_in_pages", True, _Probe.listing_in_pages),
            ("checksum", False, _Probe.checksum),
            ("if_match", False, _Probe.if_match),
            ("multipart", False, _Probe.multipart),
        ]
    try:
        told = [await _run(name, needed, check, asked) for name, needed, check in checks]
    finally:
        await asked.clean_up()
    results = [one for one in told if one is not None]
    return ProbeVerdict(
        usable=all(result.passed for result in results if result.needed),
        checks=tuple(results),
        took_ms=round((time.monotonic() - started) * 1000),
    )


async def _run(name: str, needed: bool, check: _Check, asked: "_Probe") -> ProbeCheck | None:
    """Return what a check has shown; None if it could not be asked and may be left out: a store is not sent
    away because it, or a proxy before it, does not answer what nothing here relies on.
    """
    try:
        words = await check(asked)
    except _Broken as exc:
        return ProbeCheck(name=name, passed=False, needed=needed, words=str(exc))
    except StoreError as exc:
        if exc.retryable and not needed:
            return None
        if isinstance(exc, StoreUnavailable):
            raise
        return ProbeCheck(name=name, passed=False, needed=needed, words=str(exc))
    return ProbeCheck(name=name, passed=True, needed=needed, words=words)


class _Probe:
    def __init__(
        self, store: ObjectStore, impostor: ObjectStore | None, questions: S3Questions | None, racers: int
    ) -> None:
        self._store = store
        self._impostor = impostor
        self._questions = questions
        self._racers = racers
        self._folder = f"probe/{secrets.token_hex(8)}"
        self._made: list[str] = []

    async def create_only(self) -> str:
        name = await self._create("once", b"first")
        try:
            await self._store.create(name, b"second")
        except ObjectExists:
            pass
        else:
            raise _Broken("a second create of the same name succeeded")
        if await self._store.get(name) != b"first":
            raise _Broken("a refused create changed the object")
        return "the second create was refused and changed nothing"

    async def create_race(self) -> str:
        name = self._name("race")
        bodies = [b"racer %d" % number for number in range(self._racers)]
        answers = await asyncio.gather(
            *(self._store.create(name, body) for body in bodies), return_exceptions=True
        )
        winners = [body for body, answer in zip(bodies, answers, strict=True) if answer is None]
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, StoreError):
                raise answer
        if len(winners) > 1:
            raise _Broken(f"{len(winners)} of {self._racers} creates of one name succeeded")
        if not winners:
            told = sorted({answer.code for answer in answers if isinstance(answer, StoreError)})
            raise _Broken(f"none of {self._racers} creates of one name succeeded: {', '.join(told)}")
        if await self._store.get(name) != winners[0]:
            raise _Broken("the object does not hold the winner's bytes")
        lost = sum(isinstance(answer, ObjectExists | CreateConflict) for answer in answers)
        return f"one winner, {lost} refused, {self._racers - 1 - lost} unsure"

    async def missing(self) -> str:
        name = f"{self._folder}/never-made"
        if await self._store.head(name) is not None:
            raise _Broken("HEAD of a name that was never made found something")
        try:
            await self._store.get(name)
        except ObjectNotFound:
            return "a missing object is cleanly not found"
        raise _Broken("GET of a name that was never made found something")

    async def read_after_write(self) -> str:
        body = secrets.token_bytes(BODY_BYTES) + EVERY_BYTE
        name = await self._create("body", body)
        if await self._store.get(name) != body:
            raise _Broken("the bytes read are not the bytes written")
        if await self._store.head(name) != len(body):
            raise _Broken("HEAD tells another size")
        return f"{len(body):,} bytes came back unchanged"

    async def ranges(self) -> str:
        body = secrets.token_bytes(BODY_BYTES)
        name = await self._create("ranges", body)
        for start, length in ((0, 1), (5, 95), (BODY_BYTES - 10, 10), (BODY_BYTES - 10, 1_000), (77, None)):
            end = None if length is None else start + length
            if await self._store.get(name, start=start, length=length) != body[start:end]:
                raise _Broken(f"the range from {start}, length {length}, is wrong")
        if await self._store.get(name, start=BODY_BYTES, length=10) != b"":
            raise _Broken("a range past the end is not empty")
        return "ranges are exact"

    async def empty_object(self) -> str:
        name = await self._create("empty", b"")
        if await self._store.get(name) != b"" or await self._store.head(name) != 0:
            raise _Broken("an empty object came back as something else")
        return "an empty object stays empty"

    async def list_after_write(self) -> str:
        await self._create("listed/a-b", b"22")
        await self._create("listed/a/c", b"1")
        found = [(info.name, info.size) async for info in self._store.list(f"{self._folder}/listed/")]
        wanted = [(f"{self._folder}/listed/a-b", 2), (f"{self._folder}/listed/a/c", 1)]
        if found != wanted:
            raise _Broken(
                f"the listing after the write has {len(found)} of {len(wanted)} names, or another order"
            )
        return "what was written is listed at once"

    async def gone_after_delete(self) -> str:
        name = await self._create("deleted", b"x")
        await self._store.delete(name)
        if await self._store.head(name) is not None:
            raise _Broken("a deleted object is still there")
        if [info async for info in self._store.list(name)]:
            raise _Broken("a deleted object is still listed")
        await self._store.create(name, b"again")
        return "what was deleted is gone, and its name is free"

    async def long_listing(self) -> str:
        names = [f"long/{number:05d}" for number in range(LONG_LISTING)]
        for at in range(0, len(names), LISTING_AT_ONCE):
            await asyncio.gather(*(self._create(name, b"") for name in names[at : at + LISTING_AT_ONCE]))
        found = [info.name async for info in self._store.list(f"{self._folder}/long/")]
        if found != [f"{self._folder}/{name}" for name in names]:
            raise _Broken(f"{len(found)} of {len(names)} names listed, or another order")
        return f"{len(names)} names listed in order"

    async def wrong_secret(self) -> str:
        assert self._impostor is not None
        try:
            await self._impostor.create(self._name("forged"), b"forged")
        except StoreError as exc:
            if exc.retryable:
                raise
            return "a wrong secret was refused"
        raise _Broken("a wrong secret was accepted: anybody who reaches this store can write to it")

    async def listing_in_pages(self) -> str:
        assert self._questions is not None
        made = [await self._create(f"paged/{number}", b"") for number in range(PAGED_NAMES)]
        found = await self._questions.listed_in_pages(f"{self._folder}/paged/", names_each=NAMES_EACH)
        # In any order, and with marks of folders, as the listing of the adapter takes them.
        if sorted(name for name in found if is_name(name)) != made:
            raise _Broken(f"of {len(made)} names {len(set(found))} came in pages, or one of them twice")
        return "a listing goes on from page to page"

    async def checksum(self) -> str:
        assert self._questions is not None
        name = self._name("checksum")
        broken = await self._questions.refuses_wrong_digest(name)
        if not broken and await self._store.head(name) is not None:
            broken = "bytes that do not fit their digest were refused, and kept"
        return _unless(broken, "bytes that do not fit their digest are refused")

    async def if_match(self) -> str:
        assert self._questions is not None
        broken = await self._questions.replaces_if_match(self._name("replaced"))
        return _unless(broken, "a replace is refused where the object is another one; nothing here needs it")

    async def multipart(self) -> str:
        assert self._questions is not None
        broken = await self._questions.joins_parts(self._name("parts"))
        return _unless(broken, "objects can be uploaded in parts; nothing here needs it")

    async def clean_up(self) -> None:
        """Remove what was made here, and only that: every name starts with this probe's own random folder."""
        for at in range(0, len(self._made), LISTING_AT_ONCE):
            await asyncio.gather(
                *(self._store.delete(name) for name in self._made[at : at + LISTING_AT_ONCE]),
                return_exceptions=True,
            )

    def _name(self, leaf: str) -> str:
        name = f"{self._folder}/{leaf}"
        self._made.append(name)
        return name

    async def _create(self, leaf: str, body: bytes) -> str:
        name = self._name(leaf)
        await self._store.create(name, body)
        return name


def _unless(broken: str, words: str) -> str:
    if broken:
        raise _Broken(broken)
    return words
