"""The sockets of the one port, which outlive the processes that use them; and its certificate."""

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from session_service.app import listening
from session_service.app.certificate import Certificate
from session_service.app.refused import ConfigurationRefused
from tests.fakes.certificates import make_certificate

HANDED_ON = """
import os, sys
from session_service.app import listening
first = listening.open_sockets("127.0.0.1", 0)
if sys.argv[1:] == ["again"]:
    print(os.environ.get("LISTEN_FDS"), first[0].getsockname()[1], len(first), first[0].get_inheritable())
else:
    print(first[0].getsockname()[1], flush=True)
    listening.hand_over(first, os.environ)
    os.execve(sys.executable, [sys.executable, "-P", "-c", sys.orig_argv[3], "again"], os.environ)
"""


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    (taken,) = listening.open_sockets("127.0.0.1", 0, {})
    with taken, pytest.raises(ConfigurationRefused, match="--port"):
        listening.open_sockets("127.0.0.1", taken.getsockname()[1], {})


def test_a_name_with_two_addresses_gets_one_port_on_both() -> None:
    found = listening.open_sockets("localhost", 0, {})
    try:
        assert len({one.getsockname()[1] for one in found}) == 1
        assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in found)
    finally:
        for one in found:
            one.close()


def test_the_next_program_gets_the_same_port_and_no_descriptor_too_many() -> None:
    """Really executed, as an upgrade does: the port never closes, and the variables do not stay."""
    done = subprocess.run(
        (sys.executable, "-P", "-c", HANDED_ON), check=True, capture_output=True, text=True, timeout=60
    )
    port, after = done.stdout.splitlines()
    assert after == f"None {port} 1 False"


def test_sockets_meant_for_another_process_or_another_address_are_not_used() -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid() + 1)}
    (found,) = listening.open_sockets("127.0.0.1", 0, environment)
    assert found.fileno() > listening.FIRST_DESCRIPTOR
    assert environment == {}
    with found:
        port = found.getsockname()[1]
        assert listening._fits(found, "127.0.0.1", port)
        assert not listening._fits(found, "127.0.0.1", port + 1)
        assert not listening._fits(found, "0.0.0.0", port)


def test_systemd_is_asked_to_keep_the_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as keeper:
        keeper.bind(str(tmp_path / "notify"))
        keeper.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        (found,) = listening.open_sockets("127.0.0.1", 0, {})
        with found:
            listening.store([found])
            words, descriptors, _, _ = socket.recv_fds(keeper, 1024, 4)
            assert words.split(b"\n")[0] == b"FDSTORE=1"
            with socket.socket(fileno=descriptors[0]) as kept:
                assert kept.getsockname() == found.getsockname()


def test_a_short_queue_of_the_kernel_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "somaxconn"
    monkeypatch.setattr(listening, "SOMAXCONN", limit)
    for text, told in (("128\n", 128), ("4096\n", None), ("", None)):
        limit.write_text(text)
        assert listening.queue_limit() == told


def test_files_that_are_no_certificate_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense")
    with pytest.raises(ConfigurationRefused, match="TLS files"):
        Certificate(tmp_path / "cert.pem", tmp_path / "cert.pem")


def test_half_a_renewal_leaves_the_older_certificate_in_use(tmp_path: Path) -> None:
    """The new certificate lies there before its key does."""
    certificate, key = make_certificate(tmp_path)
    inuse = Certificate(certificate, key)
    (tmp_path / "next").mkdir()
    newer, newer_key = make_certificate(tmp_path / "next")
    certificate.write_bytes(newer.read_bytes())
    assert not inuse.reload()
    key.write_bytes(newer_key.read_bytes())
    assert inuse.reload()
    assert inuse.context.minimum_version is ssl.TLSVersion.TLSv1_2
