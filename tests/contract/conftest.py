"""What the contract suites share: the real servers behind the adapters."""

from tests.fakes.s3_fixtures import minio_server, seaweedfs_server

__all__ = ["minio_server", "seaweedfs_server"]
