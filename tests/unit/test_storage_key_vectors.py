"""The golden bytes of key slots: made and opened by our code and by the second reader, refused if changed."""

import re
from pathlib import Path

import pytest

import storage
from storage.errors import StorageError
from storage.format import recovery
from storage.format.encoding import encode
from storage.format.key_slot import open_slot, seal_slot, slot_blob
from storage.format.keys import NO_REPOSITORY
from storage.format.secrets import EpochSecrets, TenantSecret, decode_tenant_secret
from storage.objects.memory import MemoryBucket
from tests.fakes.format_second_reader import SecondReader, key_of_recovery_slot, private_half, slot_of_code
from tests.fakes.storage_rig import MASTER_KEY, REF, Node, take, write

TEXT = (Path(__file__).parent.parent / "vectors" / "format-v1-vectors.txt").read_text(encoding="utf-8")
FRESH = (b"\xff" * 32, b"\xfe" * 32)


def value(name: str) -> bytes:
    return bytes.fromhex(word(name, " = "))


def word(name: str, between: str = ": ") -> str:
    found = re.search(rf"^{re.escape(name)}{between}(.+)$", TEXT, re.MULTILINE)
    assert found is not None, name
    return found[1]


def test_a_recovery_slot_is_made_and_opened_as_written():
    private, public = value("recovery_private"), value("recovery_public")
    assert recovery.public_half(private) == public
    assert recovery.code_of(private) == word("recovery_code")
    assert recovery.private_of(word("recovery_code")) == private
    wrapping_key, blob = recovery.sealing_key(public, value("ephemeral"))
    assert (wrapping_key, blob) == (value("recovery_K"), value("ephemeral_public"))
    assert recovery.opening_key(private, blob) == wrapping_key
    name = word("slot_name")
    secret = TenantSecret(word("tenant_id", " = "), value("tenant_key"), 1)
    made = seal_slot(wrapping_key, NO_REPOSITORY, name, encode(secret), blob=blob, fresh=FRESH)
    assert made == value("recovery_slot")
    assert slot_blob(name, made) == blob
    body = open_slot(wrapping_key, NO_REPOSITORY, name, made)
    assert decode_tenant_secret(body, tenant=secret.tenant) == secret


def test_a_kms_slot_is_made_and_opened_as_written():
    tenant, workspace = word("tenant_id", " = "), word("workspace_id", " = ")
    repository_id, name = value("repo_id"), word("kms_slot_name")
    secrets = EpochSecrets(repository_id, tenant, workspace, 1, value("epoch_key"), value("id_secret"))
    made = seal_slot(
        value("kms_K"), repository_id, name, encode(secrets), blob=value("kms_blob"), fresh=FRESH
    )
    assert made == value("kms_slot")
    assert slot_blob(name, made) == value("kms_blob")
    assert open_slot(value("kms_K"), repository_id, name, made) == encode(secrets)


def test_the_second_reader_opens_a_recovery_slot_by_the_code():
    private = private_half(word("recovery_code"))
    assert private == value("recovery_private")
    assert word("slot_name").endswith(slot_of_code(private))
    assert key_of_recovery_slot(private, value("ephemeral_public")) == value("recovery_K")


@pytest.mark.parametrize("cut", [True, False])
def test_a_recovery_slot_that_was_changed_opens_nowhere(cut):
    """Every truncation and one flipped bit in each byte, the ephemeral key behind the head included."""
    raw, name, private = value("recovery_slot"), word("slot_name"), value("recovery_private")
    for at in range(len(raw)):
        bad = raw[:at] if cut else raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(StorageError):
            open_slot(recovery.opening_key(private, slot_blob(name, bad)), NO_REPOSITORY, name, bad)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_point_that_everybody_knows_the_secret_of_is_refused(point):
    with pytest.raises(storage.FormatError):
        recovery.opening_key(value("recovery_private"), point)


async def test_the_second_reader_reads_a_home_by_the_recovery_code_alone(tmp_path):
    """Two key epochs and a new tenant key: slots and objects are found by what they name."""
    bucket, home = MemoryBucket(), tmp_path / "home"
    write(home, a="one", docs__letter="dear")
    private = bytes(range(32))
    ways = storage.KeyWays(master=MASTER_KEY, recovery_public=storage.public_half(private))
    opened = Node(bucket, tmp_path / "cache").open(master_key=ways)
    fence = await take(opened)
    await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
    await opened.rotate_keys(REF)
    await opened.rotate_tenant(REF.tenant)
    write(home, a="two")
    await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
    code = storage.code_of(private)
    reader = SecondReader(bucket.objects, REF.tenant, REF.workspace, recovery_code=code)
    found = dict(reader.tree(reader.checkpoints[-1][2][4]))
    assert {path: reader.data(found[path]) for path in (b"a", b"docs/letter")} == {
        b"a": b"two",
        b"docs/letter": b"dear",
    }
