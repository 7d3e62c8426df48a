"""The fault proxy as a program of its own, as tests of whole processes use it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import AmbiguousWrite, StoreUnavailable
from storage.objects.open import open_store
from tests.fakes.s3_fixtures import seaweedfs_server
from tests.fakes.s3_server import S3Server

__all__ = ["seaweedfs_server"]

PROGRAM = Path(__file__).parents[1] / "fakes" / "s3_fault_proxy.py"


def ask(endpoint: str, path: str, *, method: str = "GET", body: object = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{endpoint}/-/{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def endpoint(seaweedfs_server: S3Server) -> Iterator[str]:
    """The program, running; its address is the first thing it says."""
    command = [sys.executable, str(PROGRAM), "--target", str(seaweedfs_server.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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
