"""A real host process on a state folder of its own, with what a test needs to start and end real desktops.

Not a fake of anything: it plays the storage worker's part (it makes homes and seals proofs with the start's
key) and the parent's part (it starts and kills the host).
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import msgspec

import session_service
from session_service.base import errors, ids
from session_service.base.layout import Layout
from session_service.core import proof
from session_service.host.destroy import boot_ms
from session_service.ports.desktops import DesktopSpec, EndProof, Handle, LaunchResult
from session_service.providers.local import LocalDesktops
from tests.fakes.rfb_client import RfbClient
from tests.fakes.until import until

SOURCES = Path(session_service.__file__).parents[1]
"""Where the tested copy lies: the tree or the installed one."""


def fresh_id() -> str:
    """Return an id that nobody has."""
    return ids.new_ulid(time.time_ns() // 1_000_000, secrets.token_bytes(ids.RANDOM_BYTES))


class DesktopWorld:
    """`async with DesktopWorld() as world: ...`; what it started has ended when it is left."""

    def __init__(
        self,
        *,
        plain_uid: int | None = None,
        arguments: tuple[str, ...] = (),
        within: tuple[str, ...] = (),
    ) -> None:
        """`within` is a command that the host is started by, such as `unshare --net`."""
        # Not pytest's folder: the desktops' own uids must be able to enter it. The space is on purpose.
        self._top = Path(tempfile.mkdtemp(prefix="desktop world "))
        self._top.chmod(0o711)
        self._plain_uid = plain_uid
        self._arguments = arguments
        self._within = within
        self.layout = Layout(self._top / "state")
        self.handles: list[Handle] = []
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "DesktopWorld":
        layout = self.layout
        for folder in (layout.root, layout.homes, layout.run, layout.seeds):
            folder.mkdir(mode=0o711)
            if self._plain_uid is not None:
                os.chown(folder, self._plain_uid, self._plain_uid)
        layout.seal_key.write_bytes(secrets.token_bytes(proof.SEAL_KEY_BYTES))
        if self._plain_uid is not None:
            os.chown(layout.seal_key, self._plain_uid, self._plain_uid)
        await self.start_host()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._end_everything()
        finally:
            await self.provider.close()
            await self.stop_host()
            shutil.rmtree(self._top, ignore_errors=True)

    async def start_host(self) -> None:
        """Start the host as its own process and wait until it answers."""
        command = [
            python_for_all(),
            "-P",
            "-m",
            "session_service.host",
            "--state-folder",
            str(self.layout.root),
        ]
        drop = []
        if self._plain_uid is not None:
            uid = str(self._plain_uid)
            drop = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--bounding-set=-all", "--"]
        self._process = await asyncio.create_subprocess_exec(
            *drop,
            *self._within,
            *command,
            *("--log-level", "warning", *self._arguments),
            cwd="/",
            env={**os.environ, "PYTHONPATH": f"{SOURCES}:{sysconfig.get_path('purelib')}"},
        )
        self.provider = LocalDesktops(self.layout.host_socket)
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.provider.census()
                    return
                except errors.PartUnavailable:
                    assert self._process.returncode is None, "the host has ended"
                    await asyncio.sleep(0.02)

    @property
    def host_pid(self) -> int:
        """The host's own pid."""
        assert self._process is not None
        return self._process.pid

    async def kill_host(self) -> None:
        """Kill the host without a word, as a crash would."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        await self.provider.close()

    async def stop_host(self) -> None:
        """Stop the host in order."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self._process.wait(), 20)

    async def spec(self, *, template: str = "bare", workspace_id: str = "", **wishes: object) -> DesktopSpec:
        """Return the wish for a desktop, its empty home made as the worker makes it."""
        workspace_id = workspace_id or fresh_id()
        owner = await self.provider.owner(workspace_id=workspace_id, fence=1)
        home = self.layout.home(workspace_id, 1)
        home.parent.mkdir(mode=0o711, exist_ok=True)
        home.mkdir(mode=0o700)
        for folder in (home.parent, home):
            uid = owner[0] if owner is not None and folder == home else self._plain_uid
            if uid is not None:
                os.chown(folder, uid, uid)
        given = DesktopSpec(
            session_id=fresh_id(),
            workspace_id=workspace_id,
            user_id=fresh_id(),
            fence=1,
            registry_epoch=1,
            home=str(home),
            template=template,
            network="none",
        )
        return msgspec.structs.replace(given, **wishes)

    def give_uid(self, spec: DesktopSpec, uid: int) -> None:
        """Let the desktop of this wish have this very uid; the host reads its table again when it starts."""
        table = {"next": uid + 1, "given": {f"{spec.workspace_id}/{spec.fence}": uid}}
        self.layout.owners.write_text(json.dumps(table))
        os.chown(spec.home, uid, uid)

    def add_template(self, name: str, script: str) -> str:
        """Give this host one more template; returns its name."""
        (look,) = self.layout.look.iterdir()
        (look / name).mkdir()
        (look / name / "start").write_text(script + "\n")
        return name

    async def launch(self, **wishes: object) -> LaunchResult:
        """Start a desktop that is ended with this world."""
        result = await self.provider.launch(await self.spec(**wishes))  # type: ignore[arg-type]  # plain wishes
        self.handles.append(result.handle)
        return result

    def proof(self, handle: Handle, kind: str, **changes: object) -> EndProof:
        """Seal a proof as the worker does; `changes` are made before the seal."""
        bare = EndProof(
            kind=kind,
            workspace_id=handle.workspace_id,
            session_id=handle.session_id,
            fence=handle.fence,
            seq=7,
            hash=b"h" * 32,
            home=handle.home,
            made_at_boot_ms=boot_ms(),
            seal=b"",
        )
        bare = msgspec.structs.replace(bare, **changes)
        return msgspec.structs.replace(bare, seal=proof.seal_of(bare, self.layout.seal_key.read_bytes()))

    async def end(self, handle: Handle) -> None:
        """End and wipe with good proofs."""
        await self.provider.end(handle, self.proof(handle, "verified"))
        await self.provider.wipe(handle, self.proof(handle, "same"))

    async def _end_everything(self) -> None:
        assert self._process is not None
        if self._process.returncode is not None:
            await self.start_host()
        for seen in await self.provider.census():
            if not seen.handle.session_id:
                continue  # a home that no desktop was launched in goes with this world's folder
            try:
                await self.provider.discard(seen.handle)
            except errors.ProofRequired:
                await self.end(seen.handle)


def python_for_all() -> str:
    """Return an interpreter of our version that every user may run: ours may lie in a home folder."""
    ours = Path(sys.executable).resolve()
    if all(parent.stat().st_mode & 0o001 for parent in ours.parents):
        return sys.executable
    system = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    return str(system) if system.exists() else sys.executable


def home_file(handle: Handle, name: str) -> Path:
    """Return a file in the home of a desktop."""
    return Path(handle.home) / name


async def run_in_terminal(handle: Handle, line: str) -> None:
    """Type a line into the terminal of the bare desktop, once its shell has answered."""
    async with RfbClient(handle.socket) as client:
        ready = home_file(handle, ".terminal-ready")
        async with asyncio.timeout(20):
            while not ready.exists():
                await client.click(200, 200)
                await client.type("touch ~/.terminal-ready\n")
                await asyncio.sleep(0.3)
        await client.type(line + "\n")
        # Once it has answered it has taken the keys; of a client that just leaves it may throw them away. And
        # the line may have ended the desktop.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await client.picture()


async def run_to_file(handle: Handle, name: str, script: str, *, limit_s: float = 30.0) -> str:
    """Run a script of several lines in the terminal and return what it printed."""
    home_file(handle, f"{name}.sh").write_text(script)
    home_file(handle, f"{name}.sh").chmod(0o644)
    await run_in_terminal(handle, f"bash ~/{name}.sh > ~/{name}.part 2>&1; mv ~/{name}.part ~/{name}")
    await until(home_file(handle, name).is_file, limit_s)
    return home_file(handle, name).read_text()


async def appears(path: Path, *, limit_s: float = 20.0) -> str:
    """Wait until a file is there with a whole line, and return it."""
    await until(lambda: path.is_file() and path.read_text().endswith("\n"), limit_s)
    return path.read_text().strip()
