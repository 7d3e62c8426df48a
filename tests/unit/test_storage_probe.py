"""The probe must catch stores that break the promises, above all those that accept a condition and ignore
it.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from botocore.exceptions import ClientError

from storage.errors import ObjectExists, StoreUnavailable
from storage.objects.memory import MemoryStore
from storage.objects.probe import probe
from storage.objects.s3_questions import S3Questions
from storage.objects.store import ObjectInfo, ProbeVerdict
from tests.fakes.faulty_store import FOR_EVER, Fault, FaultyStore


class OverwritingStore(MemoryStore):
    """Ignores create-only, as rclone serve s3, s3rver and others do."""

    async def create(self, name: str, data: bytes) -> None:
        await self.delete(name)
        await super().create(name, data)


class RacyStore(MemoryStore):
    """Looks first and writes later: two see nothing, and both write."""

    async def create(self, name: str, data: bytes) -> None:
        if await self.head(name) is not None:
            raise ObjectExists(name=name)
        await asyncio.sleep(0)
        self.bucket.objects[name] = data


class ForgetfulListing(MemoryStore):
    """Lists nothing that was written lately."""

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for info in ():
            yield info


class WholeAnswers(MemoryStore):
    """Ignores ranges."""

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        return await super().get(name)


class Undying(MemoryStore):
    """Says that it deleted."""

    async def delete(self, name: str) -> None:
        return


def failed(verdict: ProbeVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


@pytest.mark.parametrize(
    ("store", "found"),
    [
        (OverwritingStore(), "create_only"),
        (RacyStore(), "create_race"),
        (ForgetfulListing(), "list_after_write"),
        (WholeAnswers(), "ranges"),
        (Undying(), "gone_after_delete"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_a_store_that_breaks_a_promise_is_not_usable(store: MemoryStore, found: str) -> None:
    verdict = await probe(store)
    assert not verdict.usable
    assert found in failed(verdict)
    assert all(check.words for check in verdict.checks)


async def test_a_flipped_bit_is_noticed() -> None:
    store = FaultyStore(MemoryStore())
    store.plan(Fault.FLIPPED, on="get", name="probe/.*/body")
    verdict = await probe(store)
    assert failed(verdict) == {"read_after_write"}


async def test_a_store_that_is_away_gets_no_verdict() -> None:
    store = FaultyStore(MemoryStore())
    store.plan(Fault.UNAVAILABLE, on="create", times=FOR_EVER)
    with pytest.raises(StoreUnavailable):
        await probe(store)


async def test_a_wrong_secret_that_is_accepted_is_told_but_does_not_forbid() -> None:
    store = MemoryStore()
    verdict = await probe(store, impostor=MemoryStore(store.bucket))
    assert failed(verdict) == {"wrong_secret"}
    assert verdict.usable


async def test_the_long_listing_is_asked_for_only_on_demand() -> None:
    store = FaultyStore(MemoryStore())
    verdict = await probe(store, long_listing=True)
    assert verdict.usable
    assert "long_listing" in {check.name for check in verdict.checks}
    assert not [info async for info in store.list("")]
    assert len(store.calls) > 1_000


class CarelessServer:
    """A client of a server that ignores conditions and digests, knows no parts, and begins each page anew."""

    def __init__(self, store: MemoryStore) -> None:
        self._objects = store.bucket.objects

    async def put_object(self, *, Key: str, Body: bytes, **_: object) -> dict[str, str]:  # noqa: N803 - its names
        self._objects[Key] = Body
        return {"ETag": Body.hex()}

    async def create_multipart_upload(self, **_: object) -> dict[str, str]:
        raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 501}}, "CreateMultipartUpload")

    async def list_objects_v2(self, *, Prefix: str, MaxKeys: int, **_: object) -> dict[str, object]:  # noqa: N803 - its names
        found = sorted(name for name in self._objects if name.startswith(Prefix))
        more = len(found) > MaxKeys and not _.get("ContinuationToken")
        rows = [{"Key": name} for name in found[:MaxKeys]]
        return {"Contents": rows, "IsTruncated": more, "NextContinuationToken": "again"}


async def test_a_server_that_does_not_do_what_it_says_is_told_and_one_that_lists_falsely_is_refused() -> None:
    store = MemoryStore()
    verdict = await probe(store, questions=S3Questions(client=CarelessServer(store), bucket="b", prefix=""))
    assert failed(verdict) == {"listing_in_pages", "checksum", "if_match", "multipart"}
    assert [check.name for check in verdict.checks if check.needed and not check.passed] == [
        "listing_in_pages"
    ]
    assert not verdict.usable
    assert not store.bucket.objects


class OddServer(CarelessServer):
    """Does what is needed, in its own way: pages in no order with a mark of a folder among them, no tags, and
    parts that it begins and then breaks off.
    """

    def __init__(self, store: MemoryStore, breaks_off: Exception) -> None:
        super().__init__(store)
        self._breaks_off = breaks_off
        self.begun: set[str] = set()

    async def put_object(self, *, Key: str, Body: bytes, **_: object) -> dict[str, str]:  # noqa: N803 - its names
        if "ContentMD5" in _:
            raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 400}}, "PutObject")
        await super().put_object(Key=Key, Body=Body)
        return {}

    async def list_objects_v2(self, *, Prefix: str, MaxKeys: int, **_: object) -> dict[str, object]:  # noqa: N803 - its names
        at = int(str(_.get("ContinuationToken", 0)))
        found = [Prefix, *sorted((one for one in self._objects if one.startswith(Prefix)), reverse=True)]
        rows = [{"Key": name} for name in found[at : at + MaxKeys]]
        more = at + MaxKeys < len(found)
        return {"Contents": rows, "IsTruncated": more, "NextContinuationToken": str(at + MaxKeys)}

    async def create_multipart_upload(self, *, Key: str, **_: object) -> dict[str, str]:  # noqa: N803 - its names
        self.begun.add(Key)
        return {"UploadId": Key}

    async def upload_part(self, **_: object) -> dict[str, str]:
        raise self._breaks_off

    async def abort_multipart_upload(self, *, UploadId: str, **_: object) -> None:  # noqa: N803 - its names
        self.begun.remove(UploadId)


REFUSED = ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}}, "UploadPart")


@pytest.mark.parametrize(
    ("breaks_off", "found"),
    [(REFUSED, {"if_match", "multipart"}), (TimeoutError(), {"if_match"})],
    ids=["refuses", "does not answer"],
)
async def test_a_server_that_keeps_what_is_needed_is_not_sent_away_for_the_rest(
    breaks_off: Exception, found: set[str]
) -> None:
    """A policy forbids parts, or a proxy lets them hang. What was begun is given up."""
    store = MemoryStore()
    server = OddServer(store, breaks_off)
    verdict = await probe(store, questions=S3Questions(client=server, bucket="b", prefix=""))
    assert verdict.usable
    assert failed(verdict) == found
    assert not server.begun
    assert not store.bucket.objects


async def test_a_store_that_has_no_answer_to_a_wrong_secret_is_not_said_to_take_it() -> None:
    """An open store is something to act on; a server that fails at a false signature is not one."""
    store = MemoryStore()
    impostor = FaultyStore(MemoryStore(store.bucket))
    impostor.plan(Fault.UNAVAILABLE, on="create", times=FOR_EVER)
    verdict = await probe(store, impostor=impostor)
    assert verdict.usable
    assert "wrong_secret" not in {check.name for check in verdict.checks}
