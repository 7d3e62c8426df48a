"""What can be said of the pages without a browser: every text is in the catalogue, nothing is inline, nothing
comes from elsewhere, and the colours that old browsers get are the light ones.
"""

import json
import re
from pathlib import Path

import pytest

import session_service.http.pages as pages_module

PAGES = Path(pages_module.__file__).parent / "pages"
MODULES = sorted(PAGES.glob("*.js"))
DOCUMENTS = sorted(PAGES.glob("*.html"))
SHEETS = sorted(PAGES.glob("*.css"))
CATALOGUE = json.loads((PAGES / "strings" / "en.json").read_text(encoding="utf-8"))
KEY = re.compile(r'"([a-z_]+\.[a-z_0-9]+)"')
FAMILY = re.compile(r"`([a-z_]+\.[a-z_]*)\$\{")
SPOKEN = (
    ("cause.tab_closed", "This page was closed."),
    ("cause.tab_hidden", "Your device paused this page."),
    ("cause.network_changed", "Your network changed."),
    ("cause.server_restart", "We restarted a part of our service."),
    ("cause.unknown", "The connection ended; we do not know why yet."),
    ("lost.title", "Connection lost.\nYour desktop is still there."),
    ("lost.lede", "It keeps running. The picture behind this is from {time}."),
    ("held.title", "Your desktop is waiting, as you left it"),
    ("ending.title", "Your desktop closes in {time}"),
    ("closing.title", "Saving, then closing"),
    ("closing.lede", "Nothing is deleted before every file was read back from storage."),
    ("closed.title", "Closed. All files are saved."),
    (
        "waiting.lede",
        ("Storage does not answer, so we keep your desktop, frozen, for as long as it takes. "
        "Nothing is deleted."),
    ),
    ("waiting.time", "No time limit applies any more."),
    ("choose.title", "Which files do you want to start with?"),
    ("taken.title", "Open on another device"),
    ("ticket.title", "This link is used up.\nYour desktop is not."),
    ("denied.title", "You cannot open this desktop"),
    ("sign_in.expired", "**Your sign-in has expired. Your desktop has not.**"),
)  # fmt: skip
UNSAID = re.compile(r"oops|don.t worry|something went wrong|snapshot|terminate|\binstance\b|!", re.IGNORECASE)


def _used() -> tuple[set[str], set[str]]:
    keys: set[str] = set()
    families: set[str] = set()
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        keys |= {key for key in KEY.findall(text) if not key.endswith((".js", ".json", ".css", ".svg"))}
        families |= set(FAMILY.findall(text))
    return keys, families


def _forms(value: str | dict[str, str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value.values())


def test_every_text_that_a_module_names_is_in_the_catalogue() -> None:
    keys, families = _used()
    assert keys - set(CATALOGUE) == set()
    assert [family for family in families if not any(key.startswith(family) for key in CATALOGUE)] == []


def test_every_text_of_the_catalogue_is_used() -> None:
    keys, families = _used()
    unused = [key for key in CATALOGUE if key not in keys and not key.startswith(tuple(families))]
    assert unused == []


def test_plural_texts_have_all_forms_of_english() -> None:
    for key, value in CATALOGUE.items():
        if isinstance(value, dict):
            assert set(value) == {"one", "other"}, key


def test_the_key_moments_are_said_in_the_agreed_words() -> None:
    for key, words in SPOKEN:
        assert CATALOGUE[key] == words


def test_no_text_speaks_as_we_never_speak() -> None:
    for key, value in CATALOGUE.items():
        for text in _forms(value):
            assert not UNSAID.search(text), (key, text)
            assert text.count("**") % 2 == 0, (key, text)


def test_each_cause_and_state_of_the_service_has_words() -> None:
    from session_service.control.alarms import ACTIONS
    from session_service.core.records import CloseCause, CloseStep, LossCause, State

    for cause in LossCause:
        assert f"cause.{cause.value}" in CATALOGUE
    for state in State:
        assert f"state.{state.value}" in CATALOGUE
    for step in CloseStep:
        assert f"step.{step.value}" in CATALOGUE
    for close in CloseCause:
        assert f"closing.because_{close.value}" in CATALOGUE
        assert f"fleet.cause_{close.value}" in CATALOGUE
    for kind in ACTIONS:
        assert f"alarm.{kind}" in CATALOGUE


def test_each_close_code_of_ours_is_known_to_the_page_or_is_the_network() -> None:
    from session_service.core.close_codes import ENDINGS

    text = (PAGES / "link.js").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"\b(\d{4}): \"", text)}
    stays_down = {int(code) for code, ending in ENDINGS.items() if not ending.by_itself}
    assert listed == stays_down


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_page_holds_nothing_inline_and_nothing_foreign(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", text)
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert [
        url for url in re.findall(r'(?:src|href)="([^"]*)"', text) if not url.startswith(("/", "#"))
    ] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_writes_no_markup_and_asks_no_other_origin(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
    foreign = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert foreign <= {"http://www.w3.org/2000/svg"}
    assert len(text.splitlines()) <= 600


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_each_module_says_first_what_it_is(module: Path) -> None:
    assert module.read_text(encoding="utf-8").startswith("// ")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_what_a_module_imports_from_another_is_exported_there_and_used(module: Path) -> None:
    """There is no bundler and no compiler: a wrong name would only show in a browser."""
    text = module.read_text(encoding="utf-8")
    for names, target in re.findall(r'import \{([^}]*)\} from "\./([\w-]+\.js)";', text):
        source = (PAGES / target).read_text(encoding="utf-8")
        for name in (each.strip() for each in names.split(",") if each.strip()):
            exported = rf"export (?:async )?(?:function|const|class) {name}\b|export \{{[^}}]*\b{name}\b"
            assert re.search(exported, source), (target, name)
            body = re.sub(r"^import .*?;$", "", text, flags=re.MULTILINE | re.DOTALL)
            assert re.search(rf"\b{name}\b", body), (module.name, name)


def test_old_browsers_get_the_light_colours() -> None:
    """The list for browsers without light-dark() must name the same values."""
    text = (PAGES / "look.css").read_text(encoding="utf-8")
    start = text.index("@supports not")
    tokens = dict(re.findall(r"(--[\w-]+):\s*light-dark\((#\w+),", text[:start]))
    fallback = dict(
        re.findall(r"(--[\w-]+):\s*(#\w+);", text[start : text.index("ground ----------", start)])
    )
    assert fallback == tokens
    assert len(tokens) > 30


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.name)
def test_a_style_sheet_loads_our_own_fonts_only_and_mirrors(sheet: Path) -> None:
    text = sheet.read_text(encoding="utf-8")
    assert [url for url in re.findall(r'url\("?([^")]*)', text) if not url.startswith("/assets/")] == []
    rules = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"(?<![\w-])(margin|padding|border)-(left|right)\b", rules)
    assert len(text.splitlines()) <= 600


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_stand_out_on_every_ground_they_meet() -> None:
    """Text at least 4.5, marks and borders of controls at least 3, in both themes."""
    text = (PAGES / "look.css").read_text(encoding="utf-8")
    pairs = {
        name: (light, dark)
        for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", text)
    }
    grounds = ("canvas", "surface", "sunken")
    for theme in (0, 1):
        colour = {name: pair[theme] for name, pair in pairs.items()}
        for ink in ("ink", "ink-2", "ink-3"):
            assert all(_contrast(colour[ink], colour[ground]) >= 4.5 for ground in grounds), (ink, theme)
        for state in ("active", "held", "starting", "closing", "closed", "alarm"):
            for ground in ("canvas", "surface", f"{state}-tint"):
                assert _contrast(colour[state], colour[ground]) >= 4.5, (state, ground, theme)
                assert _contrast(colour[f"{state}-mark"], colour[ground]) >= 3.0, (state, ground, theme)
        assert _contrast(colour["on-action"], colour["action"]) >= 4.5
        assert _contrast(colour["on-danger"], colour["danger"]) >= 4.5
        assert all(_contrast(colour["edge"], colour[ground]) >= 3.0 for ground in grounds)
        assert all(_contrast(colour["focus"], colour[ground]) >= 3.0 for ground in grounds)
