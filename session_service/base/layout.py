"""Where everything of one machine lies, under one state folder; which part may read what is set when it
is made.

Not configuration: only the root is a setting (/var/lib/session-service for root,
~/.local/share/session-service for a user).
"""

from dataclasses import dataclass
from pathlib import Path

from session_service.base.ids import ulid_to_hex


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below the state folder. As root: mode 0711, and each folder below belongs to the part that is
    named.
    """

    root: Path

    @property
    def registry(self) -> Path:
        """Folder of the SQLite file; service only."""
        return self.root / "registry"

    @property
    def objects(self) -> Path:
        """Default object store; worker only."""
        return self.root / "objects"

    @property
    def keys(self) -> Path:
        """master.key; worker only."""
        return self.root / "keys"

    @property
    def cache(self) -> Path:
        """Rebuildable caches of the worker."""
        return self.root / "cache"

    @property
    def homes(self) -> Path:
        """homes/<workspace hex>/<fence>: made by the worker, owned by the desktop's uid."""
        return self.root / "homes"

    @property
    def seeds(self) -> Path:
        """Where wiped homes wait for slow deletion; host only."""
        return self.root / "seeds"

    @property
    def desktops(self) -> Path:
        """desktops/<session id>/state.json, log, run/: made by the host."""
        return self.root / "desktops"

    @property
    def look(self) -> Path:
        """look/<fingerprint>: what desktops look like and start with; host writes, all read."""
        return self.root / "look"

    @property
    def owners(self) -> Path:
        """Which uid owns which desktop's files; host only."""
        return self.desktops / "owners.json"

    @property
    def uploads(self) -> Path:
        """Uploaded files before the worker moves them into a home; service writes, worker reads."""
        return self.root / "uploads"

    @property
    def run(self) -> Path:
        """Pid file, seal key of this start, and one folder for the sockets of each part."""
        return self.root / "run"

    def home(self, workspace_id: str, fence: int) -> Path:
        """The home of one workspace under one fence."""
        return self.homes / ulid_to_hex(workspace_id) / str(fence)

    @property
    def host_socket(self) -> Path:
        return self.run / "host" / "host.sock"

    def worker_socket(self, number: int) -> Path:
        """The socket of worker `number`, from 0."""
        return self.run / "worker" / f"worker-{number}.sock"

    @property
    def api_socket(self) -> Path:
        """The REST API for the CLI, by peer credentials."""
        return self.run / "service" / "api.sock"

    @property
    def gateway_calls(self) -> Path:
        """Where gateway processes ask control; by peer credentials."""
        return self.run / "service" / "gateway.sock"

    @property
    def gateway_sockets(self) -> Path:
        """Where gateway processes get the connections of their shard."""
        return self.run / "service" / "passing.sock"

    @property
    def address(self) -> Path:
        """The address that people open, as text, while the service runs; for the CLI."""
        return self.api_socket.with_name("address")

    @property
    def seal_key(self) -> Path:
        """32 random bytes of this start, readable by host and worker only."""
        return self.run / "seal.key"
