"""The audit chain as pure functions: golden bytes, and that any change anywhere is found."""

from dataclasses import replace

import pytest
from blake3 import blake3

from session_service.base.errors import AuditBroken, BadInput
from session_service.core import audit_chain
from session_service.core.audit_chain import EMPTY, AuditHead
from session_service.core.records import AuditEntry, AuditRecord

ENTRY = AuditEntry(
    kind="session.held",
    actor="system",
    at_ms=1_700_000_000_000,
    session_id="S1",
    user_id="U1",
    facts=(("cause", "silent"), ("hold_s", 1800.0), ("first", True), ("n", -1)),
)
GOLDEN = (
    "9801ac73657373696f6e2e68656c64a673797374656dcf0000018bcfe56800a25331c0a255319492a56361757365a673696c656e74"
    "92a6686f6c645f73cb409c20000000000092a56669727374c392a16eff"
)
GOLDEN_HASH = "91f78544367a0fbe88e6fa43a9e8f0653f174576adf74944288af5d803d504b6"


def chain(length: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    head = EMPTY
    for number in range(length):
        records.append(audit_chain.append(head, replace(ENTRY, at_ms=number)))
        head = audit_chain.head_of(records[-1])
    return records


def test_the_bytes_of_an_entry_never_change() -> None:
    assert audit_chain.canonical(ENTRY).hex() == GOLDEN
    assert audit_chain.append(EMPTY, ENTRY).hash.hex() == GOLDEN_HASH


def test_anybody_can_recompute_a_hash_from_its_description() -> None:
    assert blake3(bytes(32) + bytes.fromhex(GOLDEN)).hexdigest() == GOLDEN_HASH


def test_a_whole_chain_verifies_from_any_kept_head() -> None:
    records = chain(5)
    end = audit_chain.verify(records)
    assert end == AuditHead(seq=5, hash=records[-1].hash)
    middle = audit_chain.head_of(records[2])
    assert audit_chain.verify(records[3:], start=middle, end=end) == end
    assert audit_chain.verify([]) == EMPTY


@pytest.mark.parametrize("place", range(4))
def test_a_changed_or_removed_record_is_named(place: int) -> None:
    records = chain(4)
    end = audit_chain.head_of(records[-1])
    changed = [*records]
    changed[place] = replace(records[place], entry=replace(ENTRY, actor="somebody"))
    removed = records[:place] + records[place + 1 :]
    for broken in (changed, removed):
        with pytest.raises(AuditBroken) as caught:
            audit_chain.verify(broken, end=end)
        assert caught.value.facts["seq"] == place + 1


def test_a_chain_recomputed_after_a_change_does_not_end_in_the_kept_head() -> None:
    """Who can write everything can make a new chain; a head that was kept elsewhere shows it."""
    end = audit_chain.head_of(chain(3)[-1])
    forged = [audit_chain.append(EMPTY, replace(ENTRY, actor="somebody"))]
    for number in (1, 2):
        forged.append(audit_chain.append(audit_chain.head_of(forged[-1]), replace(ENTRY, at_ms=number)))
    audit_chain.verify(forged)
    with pytest.raises(AuditBroken):
        audit_chain.verify(forged, end=end)


def test_integers_floats_and_truth_values_are_different_facts() -> None:
    hashes = {
        audit_chain.append(EMPTY, replace(ENTRY, facts=(("n", value),))).hash for value in (1, 1.0, True, "1")
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1 << 63, -(1 << 63) - 1, "\udc80"])
def test_a_value_that_cannot_be_kept_is_refused(value: object) -> None:
    with pytest.raises(BadInput):
        audit_chain.canonical(replace(ENTRY, facts=(("n", value),)))
