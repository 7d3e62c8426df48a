"""What a probe asks of an S3 server besides the contract: conditional replacing, wrong digests, parts, short
pages.

Nothing of the repository replaces an object or uploads one in parts, so only the listing in pages is relied
on. The rest is told to whoever runs the server: how far it is from what it says it speaks. Everything lies
under names that the probe gives, which removes them; parts of an upload have no name to be removed by, so
what is begun here is joined or given up here.
"""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from storage.errors import StoreError, StoreUnavailable
from storage.objects import s3_answers

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

ANSWER_S: Final = 60.0
GIVE_UP_S: Final = 10.0
PAGES_MAX: Final = 100
SERVER_FAILED: Final = 500
_REFUSED_CONDITION: Final = (409, 412)


class S3Questions:
    """Asks one bucket. Every answer is a text of what went wrong; empty if nothing did."""

    def __init__(self, *, client: "S3Client", bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    async def replaces_if_match(self, name: str) -> str:
        """Replace an object that has the named tag, and be refused where it has another."""
        key = self._prefix + name
        with s3_answers.of_read(name):
            return await self._replaced(key)

    async def _replaced(self, key: str) -> str:
        async with asyncio.timeout(ANSWER_S):
            made = await self._client.put_object(Bucket=self._bucket, Key=key, Body=b"first")
            tag = made.get("ETag", "")
            if not tag:
                return "an object has no tag that a replace could name"
            try:
                second = await self._client.put_object(
                    Bucket=self._bucket, Key=key, Body=b"second", IfMatch=tag
                )
            except s3_answers.client_error() as exc:
                return f"a replace of the object that it names was answered {_status(exc)}"
            try:
                await self._client.put_object(Bucket=self._bucket, Key=key, Body=b"third", IfMatch=tag)
            except s3_answers.client_error() as exc:
                if _status(exc) in _REFUSED_CONDITION:
                    return ""
                return f"a replace of another object than it names was answered {_status(exc)}"
        same = second.get("ETag") == tag
        return "two contents have one tag" if same else "If-Match is taken and ignored"

    async def refuses_wrong_digest(self, name: str) -> str:
        """Send bytes with the digest of others: what arrives otherwise than it was sent must be refused."""
        digest = base64.b64encode(hashlib.md5(b"others", usedforsecurity=False).digest()).decode()
        with s3_answers.of_read(name):
            async with asyncio.timeout(ANSWER_S):
                try:
                    await self._client.put_object(
                        Bucket=self._bucket, Key=self._prefix + name, Body=b"these", ContentMD5=digest
                    )
                except s3_answers.client_error() as exc:
                    if _status(exc) < SERVER_FAILED:
                        return ""
                    return f"bytes that do not fit their digest were answered {_status(exc)}"
        return "bytes that do not fit their digest were taken"

    async def joins_parts(self, name: str) -> str:
        """Upload an object of one part."""
        where: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + name}
        with s3_answers.of_read(name):
            try:
                async with asyncio.timeout(ANSWER_S):
                    begun = await self._client.create_multipart_upload(**where)
                upload = {**where, "UploadId": begun.get("UploadId", "")}
                if not upload["UploadId"]:
                    return "an upload in parts was begun without an id"
                async with self._given_up_unless_joined(upload), asyncio.timeout(ANSWER_S):
                    part = await self._client.upload_part(**upload, PartNumber=1, Body=b"part")
                    parts: list[Any] = [{"PartNumber": 1, "ETag": part.get("ETag", "")}]
                    await self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
                return await self._read_back(where)
            except s3_answers.client_error() as exc:
                return f"an upload in parts was answered {_status(exc)}"

    @contextlib.asynccontextmanager
    async def _given_up_unless_joined(self, upload: dict[str, Any]) -> AsyncIterator[None]:
        """Leave no parts in the bucket, which cost money and are listed nowhere. What went wrong is told, and
        not that they could not be removed either.
        """
        try:
            yield
        except BaseException:
            with contextlib.suppress(StoreError), s3_answers.of_read(upload["Key"]):
                async with asyncio.timeout(GIVE_UP_S):
                    await self._client.abort_multipart_upload(**upload)
            raise

    async def _read_back(self, where: dict[str, Any]) -> str:
        async with asyncio.timeout(ANSWER_S):
            answer = await self._client.get_object(**where)
            async with answer["Body"] as stream:
                whole = await stream.read() == b"part"
        return "" if whole else "an object in parts came back otherwise"

    async def listed_in_pages(self, prefix: str, *, names_each: int) -> list[str]:
        """Return the names below a prefix, asked for a few at a time, as they came."""
        found: list[str] = []
        further: dict[str, Any] = {}
        with s3_answers.of_read(prefix):
            for _ in range(PAGES_MAX):
                async with asyncio.timeout(ANSWER_S):
                    page = await self._client.list_objects_v2(
                        Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=names_each, **further
                    )
                found += [row["Key"].removeprefix(self._prefix) for row in page.get("Contents", ())]
                if not page.get("IsTruncated"):
                    return found
                further = {"ContinuationToken": page.get("NextContinuationToken", "")}
        raise StoreUnavailable(prefix=prefix, reason="the listing does not end")


def _status(exc: Any) -> int:
    return s3_answers.status(exc)
