"""What lies in the repository: no words about the place it was written in, hashes in every lock file,
licences, nothing left out.
"""

import re
from pathlib import Path

import pytest

from tests.arch import rules_shape
from tests.arch.source import ROOT, parse, read, tracked

# Written in pieces, so that this file passes its own test.
MACHINE = re.compile(
    "|".join(
        [
            "/wo" + "rk/[a-z.]",
            "/fa" + r"rm\b",
            "fa" + "rm-(bench|studio)",
            "DEVELO" + r"PERS\.md",
            "COMP" + r"ASS\.md",
            "/ro" + r"ot/\.",
            "/home/[a-z]+" + "/(src|project|work)",
            "/opt/wh" + "eels",
        ]
    )
)
REGISTRY = re.compile(
    "|".join(
        [
            r"\bpy" + r"pi\.org",
            "pythonho" + r"sted\.org",
            r"npm" + r"js\.(org|com)",
            "proxy\\.gol" + "ang",
            "deb\\.deb" + r"ian\.org",
            "archive\\.ubu" + r"ntu\.com",
            "--(extra-)?ind" + "ex-url",
            '"resol' + 'ved": *"http',
            "GOPRO" + "XY=http",
            "regis" + "try *= *http",
        ]
    )
)
LOCKS = sorted(path for path in tracked() if path.endswith(".lock"))


def offences(pattern: re.Pattern[str], texts: dict[str, str]) -> list[str]:
    """Return each line in which the pattern is found."""
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_nothing_tells_where_it_was_written() -> None:
    """A clone makes sense on its own: no path of a machine, no name of a workplace, no host of a package
    registry.
    """
    texts = {path: read(path) for path in tracked()}
    assert offences(MACHINE, {"sample": "see /wo" + "rk/main"})
    assert offences(REGISTRY, {"sample": "https://py" + "pi.org/simple"})
    assert not offences(MACHINE, texts)
    assert not offences(REGISTRY, texts)


def unhashed(text: str) -> list[str]:
    """Return the requirements of a lock file that are not pinned to a version with at least one hash, and
    lines that fetch.
    """
    wrong = [line for line in text.splitlines() if re.search(r"https?://|^\s*-(?!-hash=)|@ ", line)]
    blocks = re.split(r"\n(?=\S)", text.strip())
    return wrong + [
        block.splitlines()[0] for block in blocks if "==" not in block or "--hash=sha256:" not in block
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_a_version_and_a_hash(lock: str) -> None:
    """What is installed is what was tested, from whatever mirror it comes."""
    assert unhashed("aiohttp==3.1\nyarl==1 \\\n    --hash=sha256:aa")
    assert unhashed("--find-links https://x\nyarl==1 \\\n    --hash=sha256:aa")
    assert not unhashed(read(lock))


def names_in(lock: str) -> set[str]:
    """Return the packages of a lock file."""
    return set(re.findall(r"^([A-Za-z0-9._-]+)==", read(lock), re.MULTILINE))


def test_locks_hold_what_the_project_asks_for() -> None:
    """A dependency that is not locked would not be installed; deploy/lock writes them anew."""
    asked = read("pyproject.toml").partition("dependencies = [")[2].partition("]\n")[0]
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r'"([A-Za-z0-9._-]+)', asked)}
    assert len(names) > 10
    assert names <= {re.sub(r"[-_.]+", "-", name).lower() for name in names_in("requirements.lock")}
    assert names_in("requirements.lock") <= names_in("requirements-dev.lock")


def unnamed(page: str, parts: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the parts that a page does not name with their version and a licence."""
    rows = re.findall(r"^\| ([^ |]+) \| ([^ |]+) \| ([^?|][^|]*) \|$", page, re.MULTILINE)
    return parts - {(name, version) for name, version, _ in rows}


def test_every_foreign_part_has_its_licence_named() -> None:
    """THIRD_PARTY.md, written by deploy/licences, names each Python and each npm package that people
    receive.
    """
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", read("requirements.lock"), re.MULTILINE))
    rows = [
        line.split() for line in read("deploy/assets/packages.txt").splitlines() if line and line[0] != "#"
    ]
    parts = locked | {(row[0], row[1]) for row in rows}
    assert unnamed("| yarl | 1 | ? |\n| attrs | 1 | MIT |", {("yarl", "1"), ("attrs", "2")})
    missing = unnamed(read("THIRD_PARTY.md"), parts)
    assert not missing, f"run deploy/licences: {sorted(missing)}"


def test_the_licence_is_the_one_the_project_names() -> None:
    """Apache-2.0, whole."""
    assert 'license = "Apache-2.0"' in read("pyproject.toml")
    assert "Apache License\n                           Version 2.0" in read("LICENSE")


def test_changes_have_a_place() -> None:
    """What users notice gets a fragment, whole sentences under a heading."""
    fragments = [path for path in tracked() if path.startswith("docs/changes/unreleased/")]
    assert fragments
    for path in fragments:
        assert re.fullmatch(r"docs/changes/unreleased/[a-z0-9-]+\.md", path), path
        assert read(path).strip().endswith("."), path


def test_tests_are_whole_too() -> None:
    """No test is left out, no check silenced without a reason."""
    tests = [path for path in tracked() if path.startswith("tests/") and path.endswith(".py")]
    found = [
        offence
        for path in tests
        for offence in rules_shape.nothing_is_left_unfinished(parse(path, read(path)))
    ]
    assert not [offence for offence in found if not offence.startswith("tests/arch/rules_")]


def test_nothing_is_written_into_the_tree_that_git_would_show() -> None:
    """What tools and builds leave is ignored, so that a clone stays clean."""
    ignored = Path(ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {".venv/", "__pycache__/", "dist/", "session_service/http/assets/"} <= set(ignored)
    assert not [path for path in tracked() if path.startswith("session_service/http/assets/")]
