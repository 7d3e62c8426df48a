"""From an address to an open store.

    file:///var/lib/session-service/objects[?create=true]
    s3://bucket/prefix[?endpoint=http://127.0.0.1:8333][&region=eu-central-1][&create=true]

Keys of a bucket are never part of the address, which is shown in logs and on pages; they come from a file
or from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN). Unknown parts of an
address are refused: a misspelt `endpoint` would send a user's files to another place.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from storage.errors import StoreRefused
from storage.objects.folder import FolderStore
from storage.objects.s3 import S3Place, S3Store
from storage.objects.store import ObjectStore

CREDENTIALS_BYTES_MAX = 64 * 1024
REGION = "us-east-1"
"""What servers that know no regions expect in a signature."""

_KEY_NAMES = {
    "aws_access_key_id": "access_key",
    "access_key_id": "access_key",
    "access_key": "access_key",
    "aws_secret_access_key": "secret_key",
    "secret_access_key": "secret_key",
    "secret_key": "secret_key",
    "aws_session_token": "session_token",
    "session_token": "session_token",
}
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "access_key",
    "AWS_SECRET_ACCESS_KEY": "secret_key",
    "AWS_SESSION_TOKEN": "session_token",
}
_FORMS = "file:///path/of/a/folder or s3://bucket/prefix?endpoint=http://host:port&region=name"


async def open_store(
    url: str, *, credentials_file: Path | None = None, environment: Mapping[str, str] | None = None
) -> ObjectStore:
    """Open the store at `url`, without retries around it.

    Args:
        credentials_file: lines `name = value` as in ~/.aws/credentials; only its owner may read it.
        environment: where to look for keys if there is no file; os.environ by default.

    Raises:
        StoreRefused: the address, the keys or the place are wrong; `advice` says what to do.
        StoreUnavailable: nobody answers there.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise StoreRefused(
            reason="the address of a store holds a user or password",
            advice="put keys into a file or the environment",
        )
    if parts.scheme == "file":
        options = _options(url, parts, {"create"})
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise StoreRefused(url=url, reason="not an absolute folder", advice=f"write {_FORMS}")
        return await FolderStore.open(Path(unquote(parts.path)), create=_is_true(url, options.get("create")))
    if parts.scheme == "s3":
        options = _options(url, parts, {"create", "endpoint", "region"})
        place = _place(url, parts, options, _keys(credentials_file, environment))
        return await S3Store.open(place, create=_is_true(url, options.get("create")))
    raise StoreRefused(url=url, reason="unknown kind of store", advice=f"write {_FORMS}")


def _options(url: str, parts: SplitResult, known: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known or name in found:
            raise StoreRefused(
                url=url,
                reason=f"unknown or repeated part: {name}",
                advice=f"known are: {', '.join(sorted(known))}",
            )
        found[name] = value
    if parts.fragment:
        raise StoreRefused(url=url, reason="an address of a store has no #", advice="write %23 for it")
    return found


def _is_true(url: str, value: str | None) -> bool:
    if value not in {None, "true", "false"}:
        raise StoreRefused(url=url, reason=f"create={value}", advice="write create=true or create=false")
    return value == "true"


def _place(url: str, parts: SplitResult, options: dict[str, str], keys: dict[str, str]) -> S3Place:
    bucket = parts.netloc
    if not bucket or ":" in bucket:
        raise StoreRefused(url=url, reason="no bucket", advice=f"write {_FORMS}")
    endpoint = options.get("endpoint")
    if endpoint is not None and urlsplit(endpoint).scheme not in {"http", "https"}:
        raise StoreRefused(
            url=url, reason="the endpoint is no http or https address", advice=f"write {_FORMS}"
        )
    if not keys.get("access_key") or not keys.get("secret_key"):
        raise StoreRefused(
            url=url,
            reason="no keys for this bucket",
            advice="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a credentials file",
        )
    return S3Place(
        bucket=bucket,
        prefix=unquote(parts.path).strip("/"),
        endpoint=endpoint,
        region=options.get("region", REGION),
        access_key=keys["access_key"],
        secret_key=keys["secret_key"],
        session_token=keys.get("session_token"),
    )


def _keys(file: Path | None, environment: Mapping[str, str] | None) -> dict[str, str]:
    if file is not None:
        return _keys_from_file(file)
    source = os.environ if environment is None else environment
    return {ours: source[theirs] for theirs, ours in _ENVIRONMENT.items() if source.get(theirs)}


def _keys_from_file(file: Path) -> dict[str, str]:
    try:
        with open(file, "rb") as stream:
            found = os.fstat(stream.fileno())
            raw = stream.read(CREDENTIALS_BYTES_MAX)
    except OSError as exc:
        raise StoreRefused(
            file=str(file), reason="the credentials file cannot be read", errno=exc.errno
        ) from exc
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreRefused(
            file=str(file), reason="others may read the credentials file", advice=f"chmod 600 {file}"
        )
    keys: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        name, mark, value = line.partition("=")
        ours = _KEY_NAMES.get(name.strip().lower())
        if mark and ours is not None and ours not in keys:
            keys[ours] = value.strip()
    return keys
