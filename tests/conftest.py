"""Lanes and settings that every test shares; no fixtures of the product live here.

The lanes are `fast` (under two minutes), `all` (the default, reduced counts, about fifteen) and `soak` (full
counts). A test says with `@pytest.mark.slow` that it does not belong in the first, with `@pytest.mark.soak`
that it belongs in the last only; the folders that start real parts are never fast. The helpers of tests are
imported as `tests.NAME`, which is made to work here without putting the source tree on the path:
`deploy/test` tests the installed copy, and a source tree in front of it would hide what is not installed.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
FAST_FOLDERS = frozenset({"unit", "arch", "property", "contract"})
LANES = ("fast", "all", "soak")
EXAMPLES = {"fast": 25, "all": 100, "soak": 5000}

if "tests" not in sys.modules:
    package = ModuleType("tests", "The helpers of the tests.")
    package.__path__ = [str(HERE)]
    sys.modules["tests"] = package

for name, examples in EXAMPLES.items():
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,  # the machine is shared: slow is not wrong
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lane", choices=LANES, default="all", help="how much to run (default: all)")


@pytest.hookimpl(tryfirst=True)  # before pytest makes its folder for what tests write
def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile(config.getoption("--lane"))
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    if worker and config.option.basetemp:
        # One of several side by side would write below "popen-gw0/": too long for paths of sockets.
        config.option.basetemp = str(Path(config.option.basetemp).parent / worker.removeprefix("gw"))


def pytest_report_header(config: pytest.Config) -> str:
    return f"lane: {config.getoption('--lane')}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lane = config.getoption("--lane")
    keep, leave = [], []
    for item in items:
        (keep if belongs(item, lane) else leave).append(item)
    if leave:
        config.hook.pytest_deselected(items=leave)
        items[:] = keep


def belongs(item: pytest.Item, lane: str) -> bool:
    """Say whether a test is part of a lane."""
    marks = {mark.name for mark in item.iter_markers()}
    if lane == "soak":
        return True
    if "soak" in marks:
        return False
    if lane == "all":
        return True
    folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
    return folder in FAST_FOLDERS and "slow" not in marks


@pytest.fixture(autouse=True)
def _umask_stays() -> Iterator[None]:
    """What a test does to the whole process, every later one would feel."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    after = os.umask(before)
    assert after == before, f"the umask was {before:04o} and is {after:04o}"


@pytest.fixture(scope="session")
def lane(request: pytest.FixtureRequest) -> str:
    """The lane that runs, for tests whose counts depend on it."""
    return str(request.config.getoption("--lane"))
