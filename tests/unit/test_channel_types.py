"""The types of the channel say what its modules are: the same names, no member forgotten, none invented."""

import re
from pathlib import Path

import pytest

import session_service.http.pages as pages_module
from session_service.http.pages import FOR_OTHERS

PAGES = Path(pages_module.__file__).parent / "pages"
NAMES = sorted(name for name in FOR_OTHERS if name.endswith(".js"))
EXPORTED = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)
DECLARED = re.compile(r"^export declare (?:function|class|const) (\w+)", re.MULTILINE)
MEMBER = re.compile(r"^  (?:async |get )?(\w+)(?:\(.*\) \{| = .*;.*)$", re.MULTILINE)
TYPED = re.compile(r"^  (?:readonly )?(\w+)(?:\(|:)", re.MULTILINE)
CLASSES = [("channel", "Channel"), ("attempt", "Attempt"), ("wire", "Ring")]
TOLD = re.compile(r'#tell\("(\w+)"')


def _class(text: str, name: str) -> str:
    start = text.index(f"class {name} ")
    return text[start : text.index("\n}\n", start)]


@pytest.mark.parametrize("name", NAMES)
def test_each_module_has_types_with_the_same_names(name: str) -> None:
    types = (PAGES / name.replace(".js", ".d.ts")).read_text(encoding="utf-8")
    assert set(EXPORTED.findall((PAGES / name).read_text(encoding="utf-8"))) == set(DECLARED.findall(types))


@pytest.mark.parametrize(
    ("module", "name"), [("channel", "Channel"), ("attempt", "Attempt"), ("wire", "Ring")]
)
def test_each_class_has_the_members_that_are_written_down(module: str, name: str) -> None:
    made = set(MEMBER.findall(_class((PAGES / f"{module}.js").read_text(encoding="utf-8"), name)))
    typed = set(TYPED.findall(_class((PAGES / f"{module}.d.ts").read_text(encoding="utf-8"), name)))
    within = {"send", "portClosed"} if name == "Channel" else set()  # for its own port only
    assert made - within - {"constructor"} == typed - {"constructor"}


def test_everything_that_a_channel_tells_has_a_type() -> None:
    types = (PAGES / "channel.d.ts").read_text(encoding="utf-8")
    body = types[types.index("interface Told {") : types.index("\n}\n", types.index("interface Told {"))]
    told = set(TOLD.findall((PAGES / "channel.js").read_text(encoding="utf-8")))
    assert told == set(re.findall(r"^  (\w+): ", body, re.MULTILINE))


def test_the_modules_for_others_import_each_other_only() -> None:
    for name in NAMES:
        text = (PAGES / name).read_text(encoding="utf-8")
        assert {f"{each}" for each in re.findall(r'from "\./([\w.-]+)"', text)} <= FOR_OTHERS
        assert not re.search(r'from "(?!\./)', text)
