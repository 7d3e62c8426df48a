"""The network of a desktop: its rules, and what `doctor` advises where there is none."""

from pathlib import Path

import pytest

from session_service.host import selftest
from session_service.host.network import RULES, Network

HERE = Path(__file__)


def test_the_rules_need_no_list_of_protocols() -> None:
    """A bare Debian has no /etc/protocols: a name there would leave every desktop without a network."""
    assert "l4proto 58 accept" in RULES
    assert "icmp" not in RULES


@pytest.mark.parametrize(
    ("cause", "reason", "device", "advice"),
    [
        ("program", "nft is not installed", HERE, "Install the packages"),
        ("rules", "netlink: Error: Operation not permitted", HERE, "NET_ADMIN"),
        ("rules", "Error: Could not process rule: No such file or directory", HERE, "modprobe -a nf_tables"),
        ("router", "it does not work", HERE.with_name("none"), "modprobe tun"),
        ("router", "it does not work", HERE, "by hand"),
        ("time", "it was not ready within 5 s", HERE, "look again later"),
        ("namespace", "it has ended", HERE, "by hand"),
    ],
)
def test_each_cause_has_its_own_advice(cause: str, reason: str, device: Path, advice: str) -> None:
    made = Network(kind="none", reason=reason, cause=cause)
    assert advice in selftest.network_advice(made, device=device)


def test_a_closed_device_is_to_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_service.host.selftest.os.access", lambda *_: False)
    made = Network(kind="none", reason="it does not work", cause="router")
    assert "chmod 0666" in selftest.network_advice(made, device=tmp_path)
