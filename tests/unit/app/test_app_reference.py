"""The generated documents are what the code makes, and settings keep their promises."""

import re
from pathlib import Path

import pytest

from session_service.app import reference, settings
from session_service.app.refused import ConfigurationRefused

DOCS = Path(__file__).parents[3] / "docs"
SETTINGS_MOST = 60


def test_the_configuration_document_is_what_the_code_makes() -> None:
    """If not: python -m session_service.app.reference configuration > docs/configuration.md"""
    assert (DOCS / "configuration.md").read_text() == reference.configuration()


def test_the_error_document_is_what_the_code_makes() -> None:
    """If not: python -m session_service.app.reference errors > docs/errors.md"""
    assert (DOCS / "errors.md").read_text() == reference.error_table()


def test_every_setting_says_who_would_change_it_and_there_are_few() -> None:
    rows = [line for line in reference.configuration().splitlines() if re.match(r"\| `[a-z_.]+` ", line)]
    assert 0 < len(rows) < SETTINGS_MOST
    assert not [row for row in rows if row.rstrip().endswith("| |")]


def test_an_unknown_setting_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigurationRefused, match=r"listen\.prt"):
        settings.load(flags={"listen.prt": 1})


def test_an_unknown_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SERVICE_HOLDS__HOLD_S", "10")
    with pytest.raises(ConfigurationRefused, match="SESSION_SERVICE_HOLDS__HOLD_S"):
        settings.load()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[hold]\nhold_s = 1\ncheckpoint_target_s = 20\n[room]\ndisk_free_mb_min = 7\n")
    monkeypatch.setenv("SESSION_SERVICE_HOLD__HOLD_S", "2")
    monkeypatch.setenv("SESSION_SERVICE_HOLD__CHECKPOINT_TARGET_S", "30")
    found = settings.load(file, {"hold.hold_s": 3})
    assert (found.hold.hold_s, found.hold.checkpoint_target_s, found.room.disk_free_mb_min) == (3, 30, 7)


def test_an_address_for_everybody_needs_tls_or_a_proxy() -> None:
    with pytest.raises(ConfigurationRefused, match="behind_proxy"):
        settings.load(flags={"listen.host": "0.0.0.0"})


def test_tls_needs_both_files() -> None:
    with pytest.raises(ConfigurationRefused, match="belong together"):
        settings.load(flags={"listen.tls_key": "/nowhere"})


def test_a_list_is_given_as_json_on_the_command_line_too() -> None:
    """As docs/running.md starts it behind a proxy; what is no list is told with its form."""
    found = settings.load(
        flags={"listen.public_origins": '["https://desk.example"]', "desktops.geometry": "[1024, 768]"}
    )
    assert found.listen.public_origins == ("https://desk.example",)
    assert found.desktops.geometry == (1024, 768)
    assert settings.load(flags={"node_name": "[one]"}).node_name == "[one]"
    for wrong in ("https://desk.example", '{"a": 1}', "[", ""):
        with pytest.raises(ConfigurationRefused, match="public_origins is a list, such as"):
            settings.load(flags={"listen.public_origins": wrong})


def test_a_list_is_given_as_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_SERVICE_LISTEN__PUBLIC_ORIGINS", '["https://desk.example"]')
    assert settings.load().listen.public_origins == ("https://desk.example",)
