"""Ids, proofs and the spelling of bytes on the wire: the quick way of each against the plain one."""

import base64
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_service.base.ids import ALPHABET, hex_to_ulid, is_ulid, new_ulid, ulid_to_hex
from session_service.core.continuity.proof import decode, encode, is_signed, sign


def spelled(number: int) -> str:
    """Five bits a letter, as the standard says it."""
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


@given(now_ms=st.integers(0, (1 << 48) - 1), fresh=st.binary(min_size=10, max_size=10))
def test_an_id_is_its_time_and_its_random_bytes(now_ms: int, fresh: bytes) -> None:
    number = now_ms << 80 | int.from_bytes(fresh, "big")
    made = new_ulid(now_ms, fresh)
    assert made == spelled(number) == hex_to_ulid(f"{number:032x}")
    assert is_ulid(made)
    assert ulid_to_hex(made) == f"{number:032x}"


@given(data=st.binary(max_size=64))
def test_bytes_have_one_spelling_that_reads_back(data: bytes) -> None:
    text = encode(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert decode(text) == data


@given(text=st.text(alphabet="ABab09-_+/=\n é\x00", max_size=12) | st.text(max_size=12))
def test_every_other_spelling_is_refused(text: str) -> None:
    """Padding, the other alphabet, spaces, bits that stand for nothing."""
    try:
        data = decode(text)
    except ValueError:
        return
    assert encode(data) == text
    assert base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == data


@pytest.mark.parametrize("text", ["A", "AB", "AA=", "AA==", "AA+A", "AA/A", "A A", "AAA\n", "AAAAA", "é"])
def test_known_wrong_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(text)


@given(
    key=st.binary(min_size=32, max_size=32), text=st.text(alphabet=st.characters(codec="utf-8"), max_size=300)
)
def test_a_proof_is_signed_with_the_hmac_of_the_standard(key: bytes, text: str) -> None:
    """Ours is two hashes; the library says what they must give."""
    mac = hmac.digest(key, text.encode(), "sha256")
    assert sign(key, text) == mac
    assert is_signed(key, text, mac)
    assert not is_signed(key, text + "x", mac)
