"""The fault proxy as a program of its own, as tests of whole processes use it."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import AmbiguousWrite, ObjectNotFound, StoreUnavailable
from storage.fault_proxy.script import HttpFault, Plan, Script
from storage.objects.open import open_store
from tests.fakes.s3_fixtures import seaweedfs_server
from tests.fakes.s3_server import S3Server

__all__ = ["seaweedfs_server"]

ROOT = Path(__file__).parents[2]


def ask(endpoint: str, path: str, *, method: str = "GET", body: object = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{endpoint}/-/{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def endpoint(seaweedfs_server: S3Server) -> Iterator[str]:
    """The program, running; its address is the first thing it says."""
    command = [sys.executable, "-m", "storage.fault_proxy", "--target", str(seaweedfs_server.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.slow
async def test_it_is_told_over_http_what_shall_go_wrong(seaweedfs_server: S3Server, endpoint: str) -> None:
    store = await open_store(
        f"s3://alone/x?endpoint={endpoint}&create=true", environment=seaweedfs_server.keys
    )
    faults = [
        {"fault": "status", "status": 503, "method": "PUT", "path": "/c/1"},
        {"fault": "truncated", "method": "GET", "path": "/c/1", "times": 2},
    ]
    ask(endpoint, "faults", method="POST", body=faults)
    with pytest.raises(AmbiguousWrite):
        await store.create("c/1", b"x" * 1_000)
    await store.create("c/1", b"x" * 1_000)
    with pytest.raises(StoreUnavailable):
        await store.get("c/1")
    ask(endpoint, "faults", method="DELETE")
    assert await store.get("c/1") == b"x" * 1_000
    seen = ask(endpoint, "seen")
    assert isinstance(seen, list)
    assert [kind for _, path, kind in seen if path.endswith("/c/1")] == [
        *("status", "passed", "truncated", "passed"),
    ]
    await store.close()


@pytest.mark.slow
async def test_a_write_that_was_swallowed_and_a_read_that_is_stale_look_like_success(
    seaweedfs_server: S3Server, endpoint: str
) -> None:
    """What only reading back can find."""
    store = await open_store(
        f"s3://alone/y?endpoint={endpoint}&create=true", environment=seaweedfs_server.keys
    )
    swallowed = {"fault": "swallowed", "operation": "put", "path": "/c/1"}
    ask(endpoint, "faults", method="POST", body=swallowed)
    await store.create("c/1", b"x")
    with pytest.raises(ObjectNotFound):
        await store.get("c/1")
    await store.create("c/1", b"x")
    ask(endpoint, "faults", method="POST", body={"fault": "stale", "operation": "get", "path": "/c/1"})
    with pytest.raises(ObjectNotFound):
        await store.get("c/1")
    ask(endpoint, "faults", method="POST", body={"fault": "delay", "delay_ms": 5, "operation": "get"})
    assert await store.get("c/1") == b"x"
    ask(endpoint, "faults", method="POST", body={"fault": "flipped", "operation": "get"})
    assert await store.get("c/1") != b"x"
    await store.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan", [{}, {"fault": "rain"}, {"fault": "status", "often": 1}, {"fault": "slow", "path": "("}]
)
def test_a_plan_that_cannot_be_meant_is_refused_in_words(endpoint: str, plan: dict[str, object]) -> None:
    with pytest.raises(urllib.error.HTTPError) as told:
        ask(endpoint, "faults", method="POST", body=plan)
    with told.value:
        assert json.load(told.value)["error"]


def test_the_same_seed_meets_the_same_requests() -> None:
    """Chance is the script's own, so that a found failure can be found again."""
    met = []
    for _ in range(2):
        script = Script(seed=5)
        script.add(Plan(fault=HttpFault.STATUS, probability=0.3, times=0))
        met.append([script.meet("GET", f"/b/{number}") is not None for number in range(100)])
    assert met[0] == met[1]
    assert 10 < sum(met[0]) < 50
