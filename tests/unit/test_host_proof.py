"""What a proof must agree with before anything of a desktop is ended or wiped."""

import msgspec
import pytest

from session_service.core import proof
from session_service.ports.desktops import EndProof

KEY = bytes(range(32))
NOW = 5_000_000
FACTS = {"workspace_id": "W", "session_id": "S", "fence": 3, "home": "/homes/w/3"}
GOOD = EndProof(kind="verified", seq=9, hash=b"h" * 32, made_at_boot_ms=NOW - 1000, seal=b"", **FACTS)


def sealed(**changes: object) -> EndProof:
    bare = msgspec.structs.replace(GOOD, **changes)
    return msgspec.structs.replace(bare, seal=proof.seal_of(bare, KEY))


def flaw(given: EndProof, **changes: object) -> str | None:
    facts = {"kind": "verified", **FACTS, "now_boot_ms": NOW, **changes}
    return proof.flaw(given, KEY, **facts)  # type: ignore[arg-type]  # the parameters by name


def test_a_sealed_proof_of_the_same_facts_stands() -> None:
    assert flaw(sealed()) is None


@pytest.mark.parametrize("field", [field for field in EndProof.__struct_fields__ if field != "seal"])
def test_every_field_is_under_the_seal(field: str) -> None:
    """A field changed after sealing breaks the seal, whatever else still fits."""
    value = getattr(GOOD, field)
    other = value + 1 if isinstance(value, int) else value + (b"x" if isinstance(value, bytes) else "x")
    changed = msgspec.structs.replace(sealed(), **{field: other})
    assert flaw(changed) == "the seal is not right"


@pytest.mark.parametrize("seal", [b"", bytes(32), bytes(31), bytes(64)])
def test_another_seal_is_refused(seal: bytes) -> None:
    assert flaw(msgspec.structs.replace(sealed(), seal=seal)) == "the seal is not right"


def test_the_seal_of_another_start_is_refused() -> None:
    other = msgspec.structs.replace(GOOD, seal=proof.seal_of(GOOD, bytes(32)))
    assert flaw(other) == "the seal is not right"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "same"}, "kind"),
        ({"session_id": "T"}, "session"),
        ({"workspace_id": "V"}, "session"),
        ({"fence": 4}, "session"),
        ({"home": "/homes/w/4"}, "home"),
        ({"seq": 0}, "checkpoint"),
        ({"made_at_boot_ms": NOW - proof.PROOF_AGE_MS_MAX - 1}, "old"),
        ({"made_at_boot_ms": NOW + 1}, "old"),
    ],
    ids=str,
)
def test_a_well_sealed_proof_of_other_facts_is_refused(changes: dict[str, object], word: str) -> None:
    found = flaw(sealed(**changes))
    assert found is not None
    assert word in found


def test_a_proof_is_good_for_exactly_ten_minutes() -> None:
    assert flaw(sealed(made_at_boot_ms=NOW - proof.PROOF_AGE_MS_MAX)) is None


def test_the_seal_is_that_of_version_1() -> None:
    """Worker and host of one version share it; a change of its form is a change of this number."""
    assert (
        proof.seal_of(GOOD, KEY).hex() == "60a9d5e351a617959eeeb3c2351ce667d5e97d2ea47bfd7308f6d3d663b9b4e7"
    )
