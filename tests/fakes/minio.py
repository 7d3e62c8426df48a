"""MinIO, built from source by `deploy/test` and kept in the user's cache folder.

Its makers stopped, but many still run it: the second real server, with other habits than SeaweedFS.
"""

import os
from pathlib import Path

from tests.fakes.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, free_ports

COMMIT = "7aac2a2c5b7c"


def minio_program() -> Path | None:
    """Where MinIO lies on this machine, if it does."""
    named = os.environ.get("SESSION_SERVICE_TEST_MINIO")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = Path(named) if named else cache / "session-service" / f"minio-{COMMIT}" / "minio"
    return program if program.is_file() else None


def minio(folder: Path, program: Path) -> S3Server:
    """A MinIO on `folder`, not started yet."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    port, console = free_ports(2)
    command = [
        str(program),
        "server",
        "--quiet",
        f"--address=127.0.0.1:{port}",
        f"--console-address=127.0.0.1:{console}",
        f"--config-dir={folder / 'settings'}",
        str(data),
    ]
    environment = {
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    return S3Server(name="MinIO", command=command, environment=environment, port=port, folder=folder)
