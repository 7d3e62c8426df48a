"""Fixtures that start each real S3 server once for all tests of a run; a `conftest.py` imports what it
needs.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.minio import minio, minio_program
from tests.fakes.s3_server import S3Server
from tests.fakes.seaweedfs import seaweedfs


def _running(server: S3Server) -> Iterator[S3Server]:
    server.start()
    yield server
    server.kill()  # its data is thrown away; a polite end takes SeaweedFS 20 s


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _running(seaweedfs(Path(tmp_path_factory.mktemp("seaweedfs"))))


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    program = minio_program()
    assert program is not None, "MinIO is not built: run deploy/test, or set SESSION_SERVICE_TEST_MINIO"
    yield from _running(minio(Path(tmp_path_factory.mktemp("minio")), program))
