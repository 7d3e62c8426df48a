"""What the contract suites share: the real servers behind the adapters, and the adapters themselves."""

from tests.contract.registry_world import registry
from tests.fakes.s3_fixtures import minio_server, seaweedfs_server

__all__ = ["minio_server", "registry", "seaweedfs_server"]
