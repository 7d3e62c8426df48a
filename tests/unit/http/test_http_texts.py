"""Cursors, paths, codes, labels and secrets: texts that go out and come back."""

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from session_service.base import errors
from session_service.http import cursors, devices, instants, paths, secrets
from session_service.http.passwords import Passwords, check_form


@given(st.one_of(st.integers(0, 1 << 50), st.text("0123456789ABCDEFGHJK", max_size=30)))
def test_a_cursor_says_what_was_put_in(place: int | str) -> None:
    """And looks like nothing."""
    assert cursors.read(cursors.write(place)) == str(place)


@given(st.text(max_size=60))
def test_a_foreign_cursor_is_refused_or_one_of_ours(text: str) -> None:
    """Never an error of another kind."""
    try:
        place = cursors.read(text)
    except errors.BadInput:
        return
    assert place is None or cursors.write(place) == text


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4))
def test_any_path_of_bytes_comes_back_as_it_went(parts: list[bytes]) -> None:
    """Names on Linux are bytes, not text."""
    clean = [part.replace(b"/", b"_").replace(b"\0", b"_") for part in parts]
    clean = [part if part not in {b".", b".."} else b"x" for part in clean]
    path = b"/".join(clean)
    shown = paths.shown(path)
    shown.encode("utf-8")
    assert paths.raw(shown) == path


@given(st.text(max_size=300))
def test_a_download_has_a_name_that_breaks_no_header(name: str) -> None:
    """Quotes, newlines, control marks and lone halves of letters included."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return
    text = paths.disposition(name)
    assert text.isascii()
    assert text.isprintable()
    assert text.count('"') == 2


@given(st.binary(min_size=32, max_size=32))
def test_a_setup_code_is_easy_to_read_and_forgiving_to_type(secret: bytes) -> None:
    """Ten letters that cannot be taken for others."""
    code = secrets.setup_code(secret)
    assert len(code) == 11
    assert not set(code) & set("0O1IL5S8B") - {"B", "8"}
    assert secrets.plain_code(f" {code.lower()} ") == code.replace("-", "")


def test_a_secret_of_one_kind_is_no_other() -> None:
    """A sign-in cookie sent as a token finds nothing."""
    assert secrets.hash_of("token", "x") != secrets.hash_of("sign-in", "x")


@pytest.mark.parametrize(
    ("agent", "label"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Linux computer, Firefox"),
        (
            "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/142.0 Mobile Safari/537.36",
            "Phone, Chrome",
        ),
        ("Mozilla/5.0 (iPad; CPU OS 18_0 like Mac OS X) Version/18.0 Safari/604.1", "Tablet, Safari"),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64) Chrome/142.0 Safari/537.36 Edg/142.0",
            "Windows computer, Edge",
        ),
        ("curl/8", "Unknown device"),
        ("", "Unknown device"),
    ],
)
def test_a_device_is_called_as_its_user_would(agent: str, label: str) -> None:
    """Short enough for a list."""
    assert devices.label_of(agent) == label


def test_times_have_milliseconds_and_say_utc() -> None:
    """Also before the epoch and at a whole second."""
    assert instants.iso(0) == "1970-01-01T00:00:00.000Z"
    assert instants.iso(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"
    assert instants.iso(-1) == "1969-12-31T23:59:59.999Z"


def test_the_time_of_a_file_may_be_any():
    """Before 1970, of the year 5, and what no year of four digits can say."""
    assert instants.iso_of_file(-1_501) == "1969-12-31T23:59:58.499Z"
    assert instants.iso_of_file(-62_000_000_000_000) == "0005-04-19T09:46:40.000Z"
    assert instants.iso_of_file(-(1 << 62)) == "0001-01-01T00:00:00.000Z"
    assert instants.iso_of_file(1 << 62) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("password", ["short", "x" * 1025, "ada.lovelace"])
def test_a_password_that_protects_nothing_is_refused(password: str) -> None:
    """Too short, too long to hash, or the name itself."""
    with pytest.raises(errors.BadInput):
        check_form(password, name="Ada.Lovelace")


async def test_nobodys_password_is_never_right_and_costs_as_much() -> None:
    """One verification either way."""
    made = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:
            made.append(password)
            return super().verify(hash, password)

    passwords = Passwords(Counting(time_cost=1, memory_cost=64, parallelism=1))
    stored = await passwords.hash("right")
    assert await passwords.check(stored, "right")
    assert not await passwords.check(stored, "wrong")
    assert not await passwords.check(None, "nobody has this password")
    assert not await passwords.check("not a hash", "right")
    assert len(made) == 4
