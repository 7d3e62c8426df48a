"""The conformance kit quotes docs/protocol.md word for word, and has cases for all that was promised."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from session_service.conformance import rules, runner
from session_service.conformance.rules import Rule

DOCUMENT = Path(__file__).resolve().parents[2] / rules.DOCUMENT
QUOTED = {name: value for name, value in vars(rules).items() if isinstance(value, Rule)}
PROMISED = {
    "drops": {"cut", "many_cuts"},
    "half-open peers": {"half_open", "mute_server"},
    "60 s idle proxies": {"idle_proxy"},
    "captive portals": {"portal_200", "portal_302", "portal_407", "ticket_portal_200", "portal_at_a_login"},
    "slow links": {"slow_line", "server_reads_nothing"},
    "clock jumps": {"clock_jump"},
    "tab freezes": {"frozen_client"},
    "token expiry": {"token_expired", "token_expired_at_a_login", "used_ticket"},
}


def _plain(text: str) -> str:
    return " ".join(text.split())


def _sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(_plain, parts[2::2]), strict=True))


@pytest.mark.parametrize("name", sorted(QUOTED))
def test_each_rule_stands_in_its_section(name: str) -> None:
    rule = QUOTED[name]
    assert _plain(rule.words) in _sections()[rule.section]


def test_each_rule_is_tried_or_watched_over() -> None:
    """By a case, or wherever a message of a client is looked at."""
    tried = {case.rule for case in runner.CASES}
    sources = "".join(path.read_text() for path in Path(rules.__file__).parent.glob("[!r]*.py"))
    assert [
        name for name, rule in QUOTED.items() if rule not in tried and f"rules.{name}" not in sources
    ] == []


def test_a_case_has_one_name_and_a_promise() -> None:
    names = [case.name for case in runner.CASES]
    assert len(set(names)) == len(names)
    assert all(case.promise.endswith(".") for case in runner.CASES)


@pytest.mark.parametrize("what", PROMISED)
def test_what_was_promised_has_cases(what: str) -> None:
    assert PROMISED[what] <= {case.name for case in runner.CASES}


def test_a_pattern_and_haste_choose_fewer_cases() -> None:
    assert [case.name for case in runner.chosen(["^cut$", "^beats$"])] == ["cut", "beats"]
    assert not any(case.is_long for case in runner.chosen(with_long=False))


def test_the_plugin_brings_nothing_with_it() -> None:
    """Every run of pytest loads it where the package is installed."""
    code = (
        "import sys, session_service.conformance.plugin as one; "
        "print([name for name in sys.modules if name.startswith(('session_service.', 'storage', 'aiohttp'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "['session_service.conformance', 'session_service.conformance.plugin']"
