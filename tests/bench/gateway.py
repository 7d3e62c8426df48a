"""`./deploy/bench gateway`: resumable links against websockify, haproxy and a bare relay, then by the
thousand: two processes against one, 10,000 idle clients, a storm of 5,000 resumes, and an upgrade under 5,000
live clients, in one run.

The clients are C programs of ours on another core where there is one. Each has a desktop leg and a stream
with its ring; proofs are real; the wire is `continuity.v1`. What a control and a registry add is not in here:
`deploy/bench attach` measures that.
"""

import importlib.util
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import relay, report

PULLS_S = 1.2
PULL_BYTES = (65536, 16384, 1024)
PEERS = ("websockify", "haproxy", "raw")
GOALS = {
    ("bulk", "websockify"): 2.0,
    ("pull 65536", "websockify"): 5.0,
    ("pull 16384", "websockify"): 8.0,
    ("pull 1024", "websockify"): 10.0,
    ("bulk", "haproxy"): 1.2,
    ("pull 65536", "haproxy"): 0.7,
    ("pull 16384", "haproxy"): 0.65,
    ("pull 1024", "haproxy"): 0.65,
    ("bulk", "raw"): 0.95,
}
"""Ours over theirs, per gateway CPU second (gateway.md section 10)."""
HAPROXY = """global
    maxconn 2000
    nbthread 1
    tune.bufsize 65536
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen desktop
    bind 127.0.0.1:{port}
    server one unix@{target}
"""
"""Bytes passed through with buffers of 64 KiB, one thread: what a proxy that knows no websocket costs."""

HERE = Path(__file__).resolve().parent
TICKET = "A" * 43
SPARE_DESCRIPTORS = 400
"""Of a gateway process, beside two per client."""
IDLE_S = 20.0
BULK_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A gateway that runs."""

    process: "subprocess.Popen[bytes]"
    port: int
    listening: socket.socket
    folder: Path
    target: Path


class Herd:
    """The many clients."""

    def __init__(
        self, program: Path, site: Site, count: int, shards: int, words: tuple[str, ...] = ()
    ) -> None:
        places = ("--port", str(site.port), "--aud", f"ws://127.0.0.1:{site.port}", "--count", str(count))
        self._process = subprocess.Popen(
            relay.pinned((str(program), *places, "--shards", str(shards), *words), 1),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "OPEN", "the herd did not open"

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the herd ended early; is the gateway broken?")
        return line.strip()

    def quit(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> int:
    made = report.parser("Resumable links by the thousand.")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--clients", type=int, default=5000, help="of storm and upgrade")
    made.add_argument("--idle", type=int, default=10_000)
    chosen = made.parse_args()
    room = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_DESCRIPTORS) // 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    idle_clients, clients = min(chosen.idle, room), min(chosen.clients, room)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        folder = Path(name)
        load = relay.build(folder)
        herd = folder / "herd"
        subprocess.run(("cc", "-O2", "-o", str(herd), str(HERE / "load" / "herd.c")), check=True)
        for number in range(chosen.rounds):
            for work in works():
                for stack in ("gateway", *(peer for peer in PEERS if present(peer))):
                    report.progress(f"round {number + 1} of {chosen.rounds}: {work.name} through {stack}")
                    note(found, f"{work.name} {stack}", carried(load, folder, work, stack))
            for processes in (1, 2):
                report.progress(f"round {number + 1} of {chosen.rounds}: bulk, {processes} processes")
                note(found, f"bulk {processes}", bulk(load, folder, processes))
                report.progress(f"round {number + 1} of {chosen.rounds}: storm, {processes} processes")
                seconds, cpu_us = storm(load, herd, folder, clients, processes)
                note(found, f"storm {processes}", seconds)
                note(found, f"storm cpu {processes}", cpu_us)
        for processes in (1, 2):
            report.progress(f"upgrade with {clients} live clients, {processes} processes")
            upgraded = upgrade(load, herd, folder, clients, processes)
            note(found, f"upgrade {processes}", upgraded["seconds"])
            note(found, f"refused {processes}", upgraded["refused"])
            note(found, f"worst {processes}", upgraded["worst_ms"])
            note(found, f"resyncs {processes}", upgraded["resyncs"])
        report.progress(f"{idle_clients} idle clients for {IDLE_S:.0f} s")
        for name, value in idle(load, herd, folder, idle_clients).items():
            note(found, name, value)
        report.progress(f"{idle_clients} bare links")
        note(found, "bare kib", bare(load, herd, folder, idle_clients))
    return report.report(
        "gateway",
        rows(found, clients, idle_clients),
        as_json=chosen.json,
        notes=(
            "continuity.v1, a desktop leg and a ring for each client, uvloop; medians of interleaved rounds",
            "storm: from the first dial to the last `resumed`; upgrade: from the first `drain`, jitter 3 s",
            f"at most {room} clients: a gateway process has two descriptors for each of them",
        ),
    )


def rows(found: dict[str, list[float]], clients: int, idle_clients: int) -> list[report.Row]:
    """Return what was found, against its goals."""
    middle = {name: statistics.median(values) for name, values in found.items()}
    made = [
        report.Row(
            row=f"{work}, MB per gateway CPU second",
            ours=round(middle[f"{work} gateway"], 1),
            peer=peer,
            peer_value=round(middle[f"{work} {peer}"], 1),
            goal=goal,
        )
        for (work, peer), goal in GOALS.items()
        if f"{work} {peer}" in middle
    ]
    made += [
        report.Row(
            row="bulk over two processes, MB per gateway CPU second",
            ours=round(middle["bulk 2"], 1),
            peer="the same over one",
            peer_value=round(middle["bulk 1"], 1),
            goal=0.95,
        )
    ]
    for processes in (1, 2):
        made += [
            report.Row(
                row=f"storm of {clients} resumes, {processes} process(es), seconds",
                ours=round(middle[f"storm {processes}"], 3),
                goal=0.5 if processes == 1 else None,
                less_is_better=True,
            ),
            report.Row(
                row=f"one loss and resume of that storm, {processes} process(es), gateway CPU microseconds",
                ours=round(middle[f"storm cpu {processes}"], 1),
                less_is_better=True,
            ),
            report.Row(
                row=f"upgrade with {clients} live clients, {processes} process(es), all back, seconds",
                ours=round(middle[f"upgrade {processes}"], 3),
                goal=6.0,
                less_is_better=True,
            ),
            report.Row(
                row=f"refused connections in that upgrade, {processes} process(es)",
                ours=middle[f"refused {processes}"],
                goal=0.0,
                less_is_better=True,
            ),
            report.Row(
                row=f"slowest resume in that upgrade, {processes} process(es), ms",
                ours=middle[f"worst {processes}"],
                less_is_better=True,
            ),
        ]
    made += [
        report.Row(
            row=f"{idle_clients} idle clients, percent of a core",
            ours=round(middle["idle cpu"], 2),
            goal=1.2,
            less_is_better=True,
        ),
        report.Row(
            row="idle client with desktop leg and stream, KiB",
            ours=round(middle["idle kib"], 2),
            goal=6.0,
            less_is_better=True,
        ),
        report.Row(
            row="bare idle client, upgraded and no more, KiB",
            ours=round(middle["bare kib"], 2),
            goal=2.5,
            less_is_better=True,
        ),
        report.Row(
            row=f"longest loop stall with {idle_clients} sessions, by the clock, ms",
            ours=round(middle["stall late"], 1),
            goal=20.0,
            less_is_better=True,
        ),
        report.Row(
            row="the most processor time of ours in its way, looked at every 5 ms, ms",
            ours=round(middle["stall cpu"], 1),
            less_is_better=True,
        ),
    ]
    return made


def note(found: dict[str, list[float]], name: str, value: float) -> None:
    found.setdefault(name, []).append(value)


def works() -> list[relay.Work]:
    """What is carried: without a pause, and answers of three sizes to 64 clients that ask."""
    return [
        relay.BULK,
        *(
            relay.Work(
                name=f"pull {size}",
                arguments=("--conns", "64", "--size", str(size)),
                desktop=("--size", str(size)),
                unit="MB per gateway CPU second",
                per_answer=False,
            )
            for size in PULL_BYTES
        ),
    ]


def present(peer: str) -> bool:
    """Say whether a peer is installed; the rows of others are left out."""
    if peer == "haproxy":
        return shutil.which("haproxy") is not None
    return peer != "websockify" or importlib.util.find_spec("websockify") is not None


def carried(load: Path, folder: Path, work: relay.Work, stack: str) -> float:
    """Megabytes per CPU second; ours with the resumable stream, acknowledgements and proofs on."""
    if stack == "gateway":
        with site(load, folder, 1, words=work.desktop) as running:
            arguments = [*work.arguments, "--port", str(running.port), "--secs", str(PULLS_S)]
            arguments += ["--aud", f"ws://127.0.0.1:{running.port}", "--path", "/s/0/ws"]
            done, cpu_s = relay.run_client((str(load), "client", *arguments), running.process.pid)
        return done["bytes"] / 1e6 / cpu_s
    if stack != "haproxy":
        return relay.measure(load, folder, stack, work, PULLS_S)
    port, target = relay.free_port(), folder / f"behind-{time.monotonic_ns()}.sock"
    settings = folder / "haproxy.cfg"
    settings.write_text(HAPROXY.format(port=port, target=target))
    with relay.process((str(load), "desktop", "--unix", str(target), *work.desktop), core=1):
        relay.wait_for(target.exists)
        with relay.process(("haproxy", "-db", "-f", str(settings)), core=0) as proxy:
            relay.wait_for(lambda: relay.answers(port))
            arguments = [*work.arguments, "--raw", "--port", str(port), "--secs", str(PULLS_S)]
            done, cpu_s = relay.run_client((str(load), "client", *arguments), proxy.pid)
    return done["bytes"] / 1e6 / cpu_s


def bulk(load: Path, folder: Path, processes: int) -> float:
    """Four streams without a pause; megabytes per CPU second of all gateway processes."""
    with site(load, folder, processes, words=("--bulk",)) as running:
        arguments = ["--conns", "4", "--bulk", "--port", str(running.port), "--secs", str(BULK_S)]
        arguments += ["--aud", f"ws://127.0.0.1:{running.port}"]
        for shard in range(processes):
            arguments += ["--path", f"/s/{shard}/ws"]
        done, cpu_s = relay.run_client((str(load), "client", *arguments), running.process.pid)
    return done["bytes"] / 1e6 / cpu_s


def storm(load: Path, herd: Path, folder: Path, clients: int, processes: int) -> tuple[float, float]:
    """All clients are lost at once and dial at once: seconds until the last is back, and microseconds of
    gateway CPU for each loss and return.
    """
    with site(load, folder, processes) as running:
        many = Herd(herd, running, clients, processes)
        try:
            before = sum(relay.cpu_times(running.process.pid).values())
            many.tell("storm")
            seconds = float(many.answer()["seconds"])
            used = sum(relay.cpu_times(running.process.pid).values()) - before
            return seconds, used / 1000 / clients
        finally:
            many.quit()


def upgrade(load: Path, herd: Path, folder: Path, clients: int, processes: int) -> dict[str, Any]:
    """The gateway ends in order and its successor begins on the same listening socket."""
    with site(load, folder, processes) as running:
        many = Herd(herd, running, clients, processes)
        try:
            many.tell("drain")
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(30)
            (running.folder / "ready").unlink()
            with gateway(running.listening, running.folder, running.target, processes):
                return many.answer()
        finally:
            many.quit()


def idle(load: Path, herd: Path, folder: Path, clients: int) -> dict[str, float]:
    """Return percent of a core, KiB per client, and the longest stalls in a further window, of one gateway
    process.
    """
    with site(load, folder, 1) as running:
        before_kib = proportional_kib(running.process.pid)
        many = Herd(herd, running, clients, 1)
        try:
            time.sleep(IDLE_S / 2)  # until everybody was asked for a sign of life
            before = sum(relay.cpu_times(running.process.pid).values())
            began = time.monotonic()
            time.sleep(IDLE_S)
            used = sum(relay.cpu_times(running.process.pid).values()) - before
            percent = used / 1e7 / (time.monotonic() - began)
            kib = (proportional_kib(running.process.pid) - before_kib) / clients
            stalls = longest_stalls(running)
        finally:
            many.quit()
    return {
        "idle cpu": percent,
        "idle kib": kib,
        "stall late": stalls["late_ms"],
        "stall cpu": stalls["cpu_ms"],
    }


def longest_stalls(running: Site) -> dict[str, float]:
    """Let the gateway look at its own loop for a while, sessions idle but for their signs of life."""
    written = running.folder / "stalls.json"
    running.process.send_signal(signal.SIGUSR1)
    time.sleep(IDLE_S)
    running.process.send_signal(signal.SIGUSR1)
    relay.wait_for(written.exists)
    found: dict[str, float] = json.loads(written.read_text())
    return found


def bare(load: Path, herd: Path, folder: Path, clients: int) -> float:
    """Return KiB per link that is upgraded and has said nothing: no session, desktop leg or stream."""
    with site(load, folder, 1, bare=True) as running:
        before_kib = proportional_kib(running.process.pid)
        many = Herd(herd, running, clients, 1, ("--bare",))
        try:
            time.sleep(IDLE_S / 2)  # until everybody was asked for a sign of life
            return (proportional_kib(running.process.pid) - before_kib) / clients
        finally:
            many.quit()


@contextmanager
def site(
    load: Path,
    folder: Path,
    processes: int,
    *,
    words: tuple[str, ...] = ("--size", "1024"),
    bare: bool = False,
) -> Iterator[Site]:
    """A desktop program and a gateway before it, on a port that stays open."""
    here = Path(tempfile.mkdtemp(prefix="s", dir=folder))
    target = here / "rfb.sock"
    with relay.process((str(load), "desktop", "--unix", str(target), *words), core=1):
        relay.wait_for(target.exists)
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", 0))
            listening.listen(4096)
            with gateway(listening, here, target, processes, bare=bare) as process:
                port = listening.getsockname()[1]
                yield Site(process=process, port=port, listening=listening, folder=here, target=target)


@contextmanager
def gateway(
    listening: socket.socket, folder: Path, target: Path, processes: int, *, bare: bool = False
) -> Iterator["subprocess.Popen[bytes]"]:
    """The gateway processes, ended with all they started."""
    words = ("--listen", str(listening.fileno()), "--target", str(target), "--folder", str(folder))
    command: tuple[str, ...] = (
        sys.executable,
        str(HERE / "_gateway_site.py"),
        *words,
        "--processes",
        str(processes),
    )
    if bare:
        command += ("--bare",)
    running = subprocess.Popen(
        relay.pinned(command, 0),
        pass_fds=[listening.fileno()],
        start_new_session=True,
        env=relay.environment(),
    )
    try:
        relay.wait_for(lambda: (folder / "ready").exists() or running.poll() is not None)
        if running.poll() is not None:
            raise SystemExit("the gateway did not start")
        yield running
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def proportional_kib(pid: int) -> float:
    """Memory of one process, shared pages by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise SystemExit("no smaps_rollup")


if __name__ == "__main__":
    raise SystemExit(main())
