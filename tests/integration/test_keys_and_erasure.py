"""Keys and erasure with real parts: workers over their sockets, commands, and buckets that keep versions."""

import asyncio
import base64
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aioboto3
import pytest

import storage
from session_service.base import errors
from session_service.base.ids import ulid_to_hex
from session_service.base.layout import Layout
from session_service.checkpoints import key_commands, key_opening, keyring, worker
from session_service.checkpoints.key_sources import KeySources
from session_service.checkpoints.workers import Workers
from session_service.ports.checkpoints import WorkspaceName
from storage.format.secrets import read_receipt
from storage.objects.open import open_store
from tests.fakes.faulty_store import Crashed, FaultyStore
from tests.fakes.s3_fixtures import minio_server, seaweedfs_server
from tests.fakes.s3_server import S3Server
from tests.fakes.storage_rig import MASTER_KEY, REF, take, write
from tests.fakes.until import until

__all__ = ["minio_server", "seaweedfs_server"]
WORKSPACE = WorkspaceName(tenant_id="01J0000000000000000000000T", workspace_id="01J0000000000000000000000A")
SESSION = "01J0000000000000000000000S"
KMS = """
import sys, hashlib
key = hashlib.sha256(sys.argv[2].encode()).digest()
data = sys.stdin.buffer.read()
turned = bytes(a ^ b for a, b in zip(data[-32:], key))
sys.stdout.buffer.write((b"box:" if sys.argv[1] == "wrap" else b"") + turned)
"""


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


def spec_of(server: S3Server, tmp_path: Path, bucket: str) -> storage.StoreSpec:
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name} = {value}\n" for name, value in server.keys.items()))
    keys.chmod(0o600)
    return storage.StoreSpec(url=server.url(bucket, "homes"), credentials_file=keys)


async def opened_at(spec: storage.StoreSpec, cache: Path, key: bytes | storage.KeyWays) -> storage.Storage:
    return await storage.Storage.open(spec, master_key=key, cache_folder=cache, clock_ms=clock_ms)


async def test_erasure_reaches_every_version_in_a_bucket_that_keeps_them(minio_server, tmp_path):
    """A re-wrap and an erasure leave nothing behind that opens, also not as an older version."""
    spec = spec_of(minio_server, tmp_path, "versioned")
    home = tmp_path / "home"
    write(home, a="one")
    async with await opened_at(spec, tmp_path / "cache", MASTER_KEY) as opened:
        async with _client(minio_server) as client:
            await client.put_bucket_versioning(
                Bucket="versioned", VersioningConfiguration={"Status": "Enabled"}
            )
        fence = await take(opened)
        await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
        fresh = bytes(range(100, 132))
        ways = storage.KeyWays(master=fresh, previous=(MASTER_KEY,))
        async with await opened_at(spec, tmp_path / "moving", ways) as moving:
            done = await moving.rewrap()
            assert (done.made, done.removed, done.left) == (1, 1, ())
            assert len(await _versions(minio_server, f"homes/t/{REF.tenant}/k/")) == 1
            await moving.rotate_tenant(REF.tenant)
            assert len(await _versions(minio_server, f"homes/t/{REF.tenant}/w/{REF.workspace}/k/")) == 1
            report = await moving.erase(REF, actor="root", reason="asked")
            assert report.versions is not None
            assert report.versions > report.objects
            assert await _versions(minio_server, f"homes/t/{REF.tenant}/w/") == []
            assert b"asked" in read_receipt(report.receipt, moving.signers)
        with pytest.raises(storage.StorageError):
            await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")


@asynccontextmanager
async def _client(server: S3Server) -> AsyncIterator:
    session = aioboto3.Session(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )
    async with session.client("s3", endpoint_url=server.endpoint) as client:
        yield client


async def _versions(server: S3Server, prefix: str, bucket: str = "versioned") -> list[str]:
    async with _client(server) as client:
        page = await client.list_object_versions(Bucket=bucket, Prefix=prefix)
    return [row["Key"] for row in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))]


async def _locked_bucket(server: S3Server, bucket: str, mode: str) -> None:
    """Make a bucket that keeps every version for a day."""
    rule = {"DefaultRetention": {"Mode": mode, "Days": 1}}
    async with _client(server) as client:
        await client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
        await client.put_object_lock_configuration(
            Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )


async def _lift_governance(server: S3Server, bucket: str, prefix: str) -> None:
    """Do what only whoever runs the bucket may do."""
    async with _client(server) as client:
        page = await client.list_object_versions(Bucket=bucket, Prefix=prefix)
        for row in page["Versions"]:
            await client.delete_object(
                Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"], BypassGovernanceRetention=True
            )


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
async def test_an_erasure_in_a_locked_bucket_says_what_stays_until_when(minio_server, tmp_path, mode):
    """Nobody sees anything through the service from the tombstone on; what the bucket keeps is counted, dated
    and signed, and goes when the lock has ended.
    """
    bucket = f"locked-{mode.lower()}"
    await _locked_bucket(minio_server, bucket, mode)
    spec = spec_of(minio_server, tmp_path, bucket)
    below = f"homes/t/{REF.tenant}/w/{REF.workspace}/"
    home = tmp_path / "home"
    write(home, a="one")
    async with await opened_at(spec, tmp_path / "cache", MASTER_KEY) as opened:
        fence = await take(opened)
        await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
        for again in range(2):
            report = await opened.erase(REF, actor="root", reason="asked")
            assert (report.finished, report.slots) == (False, 1)
            assert again or report.objects + report.slots == len(report.locked)
            assert report.locked_slots == 1
            ends_in_ms = report.locked_until_ms - clock_ms()
            assert 23 * 3_600_000 < ends_in_ms <= 24 * 3_600_000
            body = read_receipt(report.receipt, opened.signers)
            assert all(one.name.encode() in body for one in report.locked)
        with pytest.raises(storage.WorkspaceErased):
            await opened.head(REF)
        assert await opened.sweep_erased() == [], "nothing counts again because its mark was removed"
        kept = await _versions(minio_server, below, bucket)
        assert len(kept) == 2 * len(report.locked), "each version below the mark of its deletion"
        if mode == "COMPLIANCE":
            return
        await _lift_governance(minio_server, bucket, below)
        await opened.sweep_erased()
        assert await _versions(minio_server, below, bucket) == []
        assert (await opened.erase(REF, actor="root", reason="asked")).finished


async def test_a_rewrap_in_a_locked_bucket_says_which_slot_stays_and_why(minio_server, tmp_path):
    await _locked_bucket(minio_server, "locked-rewrap", "COMPLIANCE")
    spec = spec_of(minio_server, tmp_path, "locked-rewrap")
    async with await opened_at(spec, tmp_path / "cache", MASTER_KEY) as opened:
        await take(opened)
    ways = storage.KeyWays(master=bytes(range(100, 132)), previous=(MASTER_KEY,))
    async with await opened_at(spec, tmp_path / "moving", ways) as moving:
        [left] = (await moving.rewrap()).left
        assert "object_locked" in left
        assert "ask again when the lock has ended" in left
    async with await opened_at(spec, tmp_path / "after", ways.master) as after:
        assert (await after.head(REF)).fence == 1


class KeptStore(FaultyStore):
    """One connection for many processes that die."""

    async def close(self) -> None:
        return None


@pytest.mark.soak
@pytest.mark.parametrize("act", ["rewrap", "erase"])
async def test_what_dies_in_any_request_to_a_real_bucket_is_finished_by_a_repeat(minio_server, tmp_path, act):
    """Half of the deaths are before a request, half after it; each has a tenant of its own."""
    spec = spec_of(minio_server, tmp_path, f"crashes-{act}")
    bare = await open_store(spec.url, credentials_file=Path(str(spec.credentials_file)))
    home = tmp_path / "home"
    write(home, a="one")
    ways = storage.KeyWays(master=bytes(range(100, 132)), previous=(MASTER_KEY,))

    def process(name: str, key: bytes | storage.KeyWays, store: FaultyStore) -> storage.Storage:
        return storage.Storage(
            store, master_key=key, cache_folder=tmp_path / name, fresh=os.urandom, clock_ms=clock_ms
        )

    for number in range(1, 80):
        ref = storage.WorkspaceRef(tenant=f"{number:016x}", workspace=REF.workspace)
        async with process("first", MASTER_KEY, KeptStore(bare)) as opened:
            head = await opened.take_over(ref, fence_at_least=1, node="n", session="s", registry_epoch=1)
            await opened.checkpoint(ref, home=home, fence=head.fence, session="s", reason="test")
        dying = KeptStore(bare)
        dying.crash_at(number, landed=number % 2 == 0)
        finished = True
        try:
            async with process("dying", ways, dying) as opened:
                await _act(opened, ref, act)
        except Crashed:
            finished = False
        async with process("next", ways, KeptStore(bare)) as opened:
            assert await _act(opened, ref, act)
        if act == "rewrap":
            async with process("last", ways.master, KeptStore(bare)) as opened:
                assert len(await opened.list(ref)) == 1
        if finished:
            await bare.close()
            return
    raise AssertionError("it never ended by itself")


async def _act(opened: storage.Storage, ref: storage.WorkspaceRef, act: str) -> bool:
    if act == "rewrap":
        return (await opened.rewrap(ref.tenant)).left == ()
    await opened.erase(ref, actor="root", reason="asked")
    with pytest.raises(storage.WorkspaceErased):
        await opened.head(ref)
    return True


async def test_a_bucket_without_versions_is_erased_and_says_so(seaweedfs_server, tmp_path):
    spec = spec_of(seaweedfs_server, tmp_path, "plain")
    home = tmp_path / "home"
    write(home, a="one")
    async with await opened_at(spec, tmp_path / "cache", MASTER_KEY) as opened:
        fence = await take(opened)
        await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
        report = await opened.erase(REF, actor="root", reason="asked")
        assert report.objects >= 2
        assert await opened.sweep_erased() == []
        with pytest.raises(storage.WorkspaceErased):
            await opened.head(REF)


@asynccontextmanager
async def service(root: Path, **sources) -> AsyncIterator[tuple[Workers, KeySources]]:
    """Run two workers over a folder, as the service does, and the adapter that gives them work."""
    layout = Layout(root)
    for folder in (layout.keys, layout.cache, layout.homes, layout.worker_socket(0).parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not layout.seal_key.exists():
        layout.seal_key.write_bytes(os.urandom(32))
    named = KeySources(file=layout.keys / "master.key", **sources)
    for number in range(2):
        layout.worker_socket(number).unlink(missing_ok=True)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(stop.set)
        for number in range(2):
            told = worker.WorkerSettings(
                layout=layout,
                number=number,
                store_url=layout.objects.as_uri(),
                own_store=True,
                credentials_file=None,
                keys=named,
                service_uid=os.geteuid(),
                service_gid=os.getegid(),
            )
            group.create_task(worker.run(told, stop), name=f"worker-{number}")
        workers = Workers([layout.worker_socket(number) for number in range(2)])
        stack.push_async_callback(workers.close)
        for number in range(2):
            await until(layout.worker_socket(number).exists)
        yield workers, named


async def _begun(workers: Workers) -> None:
    await workers.take_over(WORKSPACE, fence_at_least=1, node_id="n", session_id=SESSION, registry_epoch=1)


def _folder(root: Path) -> list[str]:
    objects = Layout(root).objects
    return sorted(str(path.relative_to(objects)) for path in objects.rglob("*-*") if path.is_file())


async def test_every_worker_forgets_an_erased_workspace_and_meets_its_tombstone(tmp_path):
    async with service(tmp_path) as (workers, _):
        await _begun(workers)
        for _ in range(2):  # the readers take turns: both workers have opened it
            assert await workers.head(WORKSPACE) is not None
        assert await workers.tombstone(WORKSPACE) is None
        done = await workers.erase(WORKSPACE, actor="root", reason="asked")
        assert (done.slots, done.processes, done.versions) == (1, 2, 0)
        for _ in range(2):
            with pytest.raises(errors.WorkspaceErased):
                await workers.head(WORKSPACE)
        with pytest.raises(errors.WorkspaceErased):
            await _begun(workers)
        stone = await workers.tombstone(WORKSPACE)
        assert (stone.actor, stone.reason) == ("root", "asked")
    async with service(tmp_path) as (workers, _):
        with pytest.raises(errors.WorkspaceErased):
            await workers.head(WORKSPACE)


async def test_somebody_who_never_saved_anything_can_be_erased(tmp_path):
    async with service(tmp_path) as (workers, _):
        done = await workers.erase(WORKSPACE, actor="root", reason="asked")
        assert (done.slots, done.objects) == (0, 0)
        with pytest.raises(errors.WorkspaceErased):
            await _begun(workers)


async def test_a_new_master_key_comes_into_use_without_a_restart(tmp_path):
    async with service(tmp_path) as (workers, sources):
        await _begun(workers)
        before = await workers.store_keys()
        old, new = key_opening.exchange(sources)
        assert keyring.name_of(keyring.read(sources.file)) == new
        assert keyring.name_of(keyring.read(sources.aside)) == old
        [tenant] = [one.tenant_id for one in before.tenants]
        done = await workers.rewrap(tenant)
        assert (done.made, done.removed, done.left) == (1, 1, ())
        after = await workers.store_keys()
        assert after.master_key_id != before.master_key_id
        assert (after.tenants[0].under_master, after.tenants[0].under_previous) == (1, 0)
        for _ in range(2):
            assert await workers.head(WORKSPACE) is not None
        assert (await workers.status()).key_backed_up is False
        turned = await workers.rotate_tenant(tenant)
        assert (turned.workspaces, turned.left) == (1, ())
        look = await workers.rotate_keys(WORKSPACE, leaked=True)
        assert (look.key_epoch, look.min_key_epoch) == (2, 2)
        assert [one.key_epoch for one in look.epochs] == [1, 2]


async def test_this_machine_burned_and_the_code_on_paper_is_left(tmp_path):
    """Store and code alone: a new master key is made, and a new machine goes on."""
    private = os.urandom(32)
    async with service(tmp_path) as (workers, sources):
        await _begun(workers)
        await workers.set_recovery(storage.public_half(private))
        [tenant] = [one.tenant_id for one in (await workers.store_keys()).tenants]
        await workers.rewrap(tenant)
        look = await workers.store_keys()
        assert (look.key_backed_up, look.tenants[0].under_recovery) == (True, 1)
        assert (await workers.status()).key_backed_up
    for file in sources.file.parent.iterdir():
        file.unlink()
    async with service(tmp_path) as (workers, _):
        with pytest.raises(errors.StorageRefused, match="recovery code"):
            await workers.head(WORKSPACE)
    url, cache = Layout(tmp_path).objects.as_uri(), tmp_path / "opening"
    with pytest.raises(errors.StorageRefused, match="opens none"):
        await key_opening.open_by_code(
            sources, url=url, credentials=None, private=os.urandom(32), cache=cache
        )
    assert not sources.file.exists(), "a wrong code leaves no key behind"
    typed = key_opening.read_code(storage.code_of(private).lower())
    for _ in range(2):
        _, done = await key_opening.open_by_code(
            sources, url=url, credentials=None, private=typed, cache=cache
        )
        assert (done.tenants, done.left) == (1, ())
    async with service(tmp_path) as (workers, _):
        assert await workers.head(WORKSPACE) is not None
        assert (await workers.store_keys()).key_backed_up, "the code opens it still"


async def test_the_master_key_comes_from_a_command_and_the_workspace_from_a_kms(tmp_path):
    """Real commands: nothing of a key lies on this machine."""
    key = tmp_path / "elsewhere"
    key.write_text(os.urandom(32).hex() + "\n")
    script = tmp_path / "kms.py"
    script.write_text(KMS)
    kms = (sys.executable, str(script))
    sources = {
        "command": ("cat", str(key)),
        "kms_wrap": (*kms, "wrap", "{key}"),
        "kms_unwrap": (*kms, "unwrap", "{key}"),
        "kms_workspace_key": "desk/{workspace}",
    }
    async with service(tmp_path / "state", **sources) as (workers, named):
        await _begun(workers)
        assert (await workers.status()).key_backed_up
        assert not named.file.exists()
        slots = [name for name in _folder(tmp_path / "state") if "/w/" in name and "/k/" in name]
        assert [name.rpartition("/")[2][:3] for name in slots] == ["1-k"]
        assert ulid_to_hex(WORKSPACE.workspace_id) in slots[0]
    async with service(tmp_path / "state", **sources) as (workers, _):
        assert await workers.head(WORKSPACE) is not None


def test_a_key_is_read_raw_as_hex_and_as_base64():
    key = bytes(range(32))
    for printed in (
        key,
        key.hex().encode() + b"\n",
        base64.b64encode(key) + b"\n",
        b" " + key.hex().encode(),
    ):
        assert key_commands.parse_key(printed, whose="it") == key
    for printed in (b"", b"\n", key[:31], key + key, b"zz" * 32, key.hex().encode()[:-2]):
        with pytest.raises(errors.StorageRefused) as refused:
            key_commands.parse_key(printed, whose="it")
        assert key.hex()[:20] not in refused.value.detail


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 3", "status 3"),
        ("echo who are you >&2; exit 1", "who are you"),
        ("head -c 70000 /dev/zero", "more than"),
        ("exec sleep 60", "did not end"),
    ],
)
async def test_a_command_that_fails_says_how_and_never_what_it_printed(monkeypatch, command, words):
    monkeypatch.setattr(key_commands, "COMMAND_S", 1.0)
    with pytest.raises(key_commands.CommandFailed, match=words) as failed:
        await key_commands.run(("sh", "-c", f"echo top-secret; {command}"), whose="store.master_key_command")
    assert "top-secret" not in failed.value.detail


async def test_a_command_that_is_not_there_is_named():
    with pytest.raises(key_commands.CommandFailed, match="no-such-program"):
        await key_commands.run(("/no-such-program",), whose="store.master_key_command")


def test_settings_of_a_kms_belong_together(tmp_path):
    with pytest.raises(errors.StorageRefused, match="belong together"):
        KeySources(file=tmp_path / "key", kms_key="desks")
    with pytest.raises(errors.StorageRefused, match="workspace"):
        KeySources(file=tmp_path / "k", kms_wrap=("a",), kms_unwrap=("b",), kms_workspace_key="one")
