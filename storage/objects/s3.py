"""Object store in a bucket of S3 or of a server that speaks it (SeaweedFS, MinIO, Ceph, a cloud).

Writes are create-only (`If-None-Match: *`) and one plain PUT each, never multipart. Neither botocore nor
aiohttp may send anything twice by itself: the commit log must know whether a lost answer can have been a
success, so every retry is ours (`retry.py`). A "not found" counts only when the store says NoSuchKey in its
own words; a plain 404 from a proxy or a lost bucket does not. A listing is complete before its first name
is given.

aioboto3 is loaded late (0.2 s) and its client is made once, its models read in a thread, because that would
stop the event loop for up to two seconds. It costs 2 to 3 ms of CPU per request (storage.md 2.4), so
callers count requests. It is not a general S3 client: no overwrite, no copy; versions are listed and removed
for erasure only.
"""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storage.errors import ObjectLocked, ObjectNotFound, StoreError, StoreRefused, StoreUnavailable
from storage.objects import s3_answers
from storage.objects.clock import of_date
from storage.objects.names import OBJECT_BYTES_MAX, check_name, check_prefix, is_name
from storage.objects.s3_body import BufferBody
from storage.objects.s3_questions import S3Questions
from storage.objects.store import ObjectInfo
from storage.objects.versions import ObjectVersion

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

CONNECTIONS_MAX = 32
CONNECT_S = 5.0
READ_S = 30.0
"""Longest silence of the server. SeaweedFS makes losers of a race wait for some seconds."""

REQUEST_S = 60.0
BYTES_PER_S_LEAST = 512 * 1024
"""A transfer may take REQUEST_S and its size at this rate; slower is an error, and is tried again."""

DIGEST_HERE_BYTES = 1024 * 1024
"""Up to here a digest takes less than the hop into a thread is worth (2 ms at most)."""

CANNOT_TELL = frozenset({"NotImplemented", "MethodNotAllowed"})
"""What servers without versions answer to a question about them."""

LIST_NAMES_MAX = 1_000_000
"""Some 200 MB of memory. A workspace has thousands; more than this is a mistake in the prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where a bucket is and who we are there. Secrets are kept out of `repr`."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class S3Store:
    """An `ObjectStore` over one bucket, below one prefix. Belongs to the event loop that opened it."""

    def __init__(
        self, *, place: S3Place, session: Any, client: "S3Client", exit_stack: AsyncExitStack
    ) -> None:
        self._place = place
        self._session = session
        self._client = client
        self._exit_stack = exit_stack
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._closed = False

    @classmethod
    async def open(cls, place: S3Place, *, create: bool = False) -> "S3Store":
        """Connect and look at the bucket; with `create` make it if it is missing.

        Raises:
            StoreRefused: no such bucket, or it is not ours, or the keys are wrong.
            StoreUnavailable: nobody answers there.
        """
        if place.prefix:
            check_name(place.prefix)
        exit_stack = AsyncExitStack()
        try:
            session = await asyncio.to_thread(_load_models, place)
            client = await exit_stack.enter_async_context(_new_client(session, place))
            store = cls(place=place, session=session, client=client, exit_stack=exit_stack)
            await store._look_at_bucket(create=create)
        except BaseException:
            await exit_stack.aclose()
            raise
        return store

    async def with_wrong_secret(self) -> "S3Store":
        """The same place with keys that must be refused: for the probe. Not looked at when opened."""
        place = S3Place(
            bucket=self._place.bucket,
            prefix=self._place.prefix,
            endpoint=self._place.endpoint,
            region=self._place.region,
            access_key=self._place.access_key,
            secret_key="wrong-" + self._place.secret_key[:8][::-1],
        )
        exit_stack = AsyncExitStack()
        client = await exit_stack.enter_async_context(_new_client(self._session, place))
        return S3Store(place=place, session=self._session, client=client, exit_stack=exit_stack)

    def questions(self) -> S3Questions:
        """Return what a probe may ask of this server besides the contract."""
        return S3Questions(client=self._client, bucket=self._place.bucket, prefix=self._prefix)

    async def create(self, name: str, data: bytes | bytearray) -> None:
        self._check_open()
        check_name(name)
        assert len(data) <= OBJECT_BYTES_MAX, "the writer splits before this limit"
        digest = _md5(data) if len(data) <= DIGEST_HERE_BYTES else await asyncio.to_thread(_md5, data)
        with s3_answers.of_write(name):
            async with asyncio.timeout(_deadline_s(len(data))):
                await self._client.put_object(
                    Bucket=self._place.bucket,
                    Key=self._prefix + name,
                    Body=data if isinstance(data, bytes) else BufferBody(data),
                    ContentMD5=digest,
                    IfNoneMatch="*",
                )

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        self._check_open()
        check_name(name)
        assert start >= 0
        assert length is None or length >= 0
        if length == 0:  # cannot be said as a range
            await self.get(name, start=start, length=1)
            return b""
        wanted: dict[str, Any] = {}
        if start or length is not None:
            wanted["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        with s3_answers.of_read(name):
            async with asyncio.timeout(_deadline_s(length or OBJECT_BYTES_MAX)):
                try:
                    answer = await self._client.get_object(
                        Bucket=self._place.bucket, Key=self._prefix + name, **wanted
                    )
                except s3_answers.client_error() as exc:
                    if s3_answers.is_past_the_end(exc):
                        return b""
                    raise
                return await _body(name, dict(answer), start, length)

    async def head(self, name: str) -> int | None:
        self._check_open()
        check_name(name)
        for _ in range(2):
            size = await self._size(name)
            if size is not None:
                return size
            # An answer to HEAD has no body, so it cannot say what was not found: the object, the bucket, or
            # the proxy's idea of a page. GET can.
            try:
                await self.get(name, length=1)
            except ObjectNotFound:
                return None
        raise StoreUnavailable(name=name, reason="the store has it for GET and not for HEAD")

    async def _size(self, name: str) -> int | None:
        with s3_answers.of_read(name):
            async with asyncio.timeout(REQUEST_S):
                try:
                    answer = await self._client.head_object(
                        Bucket=self._place.bucket, Key=self._prefix + name
                    )
                except s3_answers.client_error() as exc:
                    if s3_answers.status(exc) == 404:
                        return None
                    raise
                return int(answer["ContentLength"])

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self._check_open()
        check_prefix(prefix)
        for info in await self._collect(prefix):
            yield info

    async def delete(self, name: str) -> None:
        self._check_open()
        check_name(name)
        with contextlib.suppress(ObjectNotFound), s3_answers.of_read(name):
            async with asyncio.timeout(REQUEST_S):
                await self._client.delete_object(Bucket=self._place.bucket, Key=self._prefix + name)

    async def time_ms(self) -> int | None:
        """Return the `Date` of an answer; as `objects/clock.py`."""
        self._check_open()
        with s3_answers.of_read(self._prefix):
            async with asyncio.timeout(REQUEST_S):
                answer = await self._client.list_objects_v2(
                    Bucket=self._place.bucket, Prefix=self._prefix, MaxKeys=1
                )
        return of_date(answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date"))

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...] | None:
        """Return all versions and marks of deletion; None where the server cannot or may not tell."""
        self._check_open()
        check_prefix(prefix)
        found: list[ObjectVersion] = []
        markers: dict[str, Any] = {}
        while True:
            try:
                with s3_answers.of_read(prefix):
                    async with asyncio.timeout(REQUEST_S):
                        page = await self._client.list_object_versions(
                            Bucket=self._place.bucket, Prefix=self._prefix + prefix, **markers
                        )
            except StoreRefused:
                return None
            except StoreUnavailable as exc:
                if exc.facts.get("code") in CANNOT_TELL:
                    return None
                raise
            rows = [(row["Key"], row["VersionId"], False) for row in page.get("Versions", ())]
            rows += [(row["Key"], row["VersionId"], True) for row in page.get("DeleteMarkers", ())]
            for key, version, is_mark in rows:
                if not key.startswith(self._prefix + prefix):
                    raise StoreUnavailable(
                        prefix=prefix, reason="the listing holds names that were not asked for"
                    )
                name = key.removeprefix(self._prefix)
                found.append(ObjectVersion(name=name, version=version, is_mark=is_mark))
            if not page.get("IsTruncated"):
                return tuple(found)
            after = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
            if after == markers or len(found) > LIST_NAMES_MAX:
                raise StoreUnavailable(prefix=prefix, reason="the listing of versions does not end")
            markers = after

    async def delete_version(self, name: str, version: str) -> None:
        self._check_open()
        check_name(name)
        try:
            with contextlib.suppress(ObjectNotFound), s3_answers.of_read(name):
                async with asyncio.timeout(REQUEST_S):
                    await self._client.delete_object(
                        Bucket=self._place.bucket, Key=self._prefix + name, VersionId=version
                    )
        except StoreRefused as refused:
            locked = await self._lock_of(name, version)
            if locked is None:
                raise
            raise locked from refused

    async def _lock_of(self, name: str, version: str) -> ObjectLocked | None:
        """Return the lock of a version as an error; None if it has none, or nobody may ask."""
        with contextlib.suppress(StoreError, s3_answers.client_error()):
            with s3_answers.of_read(name):
                async with asyncio.timeout(REQUEST_S):
                    answer = await self._client.head_object(
                        Bucket=self._place.bucket, Key=self._prefix + name, VersionId=version
                    )
            return s3_answers.lock_of(name, dict(answer))
        return None

    async def close(self) -> None:
        self._closed = True
        await self._exit_stack.aclose()

    def _check_open(self) -> None:
        """The client underneath would quietly connect again."""
        if self._closed:
            raise StoreRefused(reason="the object store was closed")

    async def _collect(self, prefix: str) -> "tuple[ObjectInfo, ...]":
        """Read every page, then sort: not every server orders by bytes (SeaweedFS puts `a/` before `a-b`)."""
        found: dict[str, int] = {}
        tokens: set[str] = set()
        token: str | None = None
        while True:
            with s3_answers.of_read(prefix):
                async with asyncio.timeout(REQUEST_S):
                    further: dict[str, Any] = {"ContinuationToken": token} if token else {}
                    page = await self._client.list_objects_v2(
                        Bucket=self._place.bucket, Prefix=self._prefix + prefix, **further
                    )
            for row in page.get("Contents", ()):
                self._take_row(prefix, row["Key"], row["Size"], found)
            if not page.get("IsTruncated"):
                return tuple(ObjectInfo(name=name, size=found[name]) for name in sorted(found))
            token = page.get("NextContinuationToken")
            if not token or token in tokens:
                raise StoreUnavailable(prefix=prefix, reason="the listing has no next page, or repeats one")
            tokens.add(token)

    def _take_row(self, prefix: str, key: str, size: int, found: dict[str, int]) -> None:
        name = key.removeprefix(self._prefix)
        if not key.startswith(self._prefix + prefix):
            raise StoreUnavailable(prefix=prefix, reason="the listing holds names that were not asked for")
        if not is_name(name):
            return  # somebody else's, or the server's mark of a folder: no name that we could ever ask for
        if name in found:
            raise StoreUnavailable(prefix=prefix, name=name, reason="the listing names an object twice")
        if len(found) >= LIST_NAMES_MAX:
            raise StoreRefused(
                prefix=prefix, reason="more names than a listing may have", most=LIST_NAMES_MAX
            )
        found[name] = size

    async def _look_at_bucket(self, *, create: bool) -> None:
        bucket = self._place.bucket
        with s3_answers.of_bucket(bucket, self._place.endpoint):
            async with asyncio.timeout(REQUEST_S):
                try:
                    await self._client.head_bucket(Bucket=bucket)
                    return
                except s3_answers.client_error() as exc:
                    if not (create and s3_answers.status(exc) == 404):
                        raise
                region = self._place.region
                where: dict[str, Any] = (
                    {}
                    if region == "us-east-1"
                    else {"CreateBucketConfiguration": {"LocationConstraint": region}}
                )
                try:
                    await self._client.create_bucket(Bucket=bucket, **where)
                except s3_answers.client_error() as exc:
                    if s3_answers.code(exc) != "BucketAlreadyOwnedByYou":
                        raise


def _md5(data: bytes | bytearray) -> str:
    """For `Content-MD5`, which every server checks and without which one of them keeps what was cut off.

    SeaweedFS 4.48 stores an empty object when a connection breaks between the head of a PUT and its body.
    That would take the number of a log entry for ever. The digest of the body makes it refuse.
    """
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _deadline_s(length: int) -> float:
    return REQUEST_S + length / BYTES_PER_S_LEAST


async def _body(name: str, answer: dict[str, Any], start: int, length: int | None) -> bytes:
    """Read an answer's bytes; a server may have ignored the range and sent everything (200)."""
    told = int(answer["ContentLength"])
    if told > OBJECT_BYTES_MAX:
        raise StoreRefused(name=name, reason="larger than any object of ours", bytes=told)
    async with answer["Body"] as stream:
        data: bytes = await stream.read()
    if len(data) != told:
        raise StoreUnavailable(name=name, reason="the answer was cut short", bytes=len(data), told=told)
    whole = answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    if whole:
        return data[start:] if length is None else data[start : start + length]
    if length is not None and len(data) > length:
        raise StoreUnavailable(name=name, reason="more bytes than were asked for", bytes=len(data))
    return data


def _new_client(session: Any, place: S3Place) -> Any:
    """The client as a context manager. Every setting here is one that another default would break."""
    from aiobotocore.config import AioConfig

    from storage.objects.s3_session import OneTrySession

    config = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        max_pool_connections=CONNECTIONS_MAX,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        http_session_cls=OneTrySession,
    )
    return session.client(
        "s3",
        endpoint_url=place.endpoint,
        config=config,
        aws_access_key_id=place.access_key,
        aws_secret_access_key=place.secret_key,
        aws_session_token=place.session_token,
    )


def _load_models(place: S3Place) -> Any:
    """Import the library and read its models, in this thread and with a loop of its own; return its session.

    The session keeps what was read, so the real client is made from it in milliseconds.
    """
    import aioboto3

    session = aioboto3.Session(region_name=place.region)

    async def make_and_drop() -> None:
        async with _new_client(session, place):
            pass

    asyncio.run(make_and_drop())
    return session
