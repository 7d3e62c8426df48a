"""`./deploy/bench relay`: bytes and messages per gateway CPU second, against websockify and a bare TCP
relay, in one run.

Per CPU second of the gateway (its children included) and not per second of the clock, because the load
shares the machine. Stacks take turns within a round, medians of rounds are shown. The load is a C program
of ours: desktop and clients that speak RFB, so that the gateway's reading of client messages is part of
what is measured.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from session_service.app import heap
from tests.bench import report

HERE = Path(__file__).resolve().parent
STACKS = ("gateway", "websockify", "raw")
TICKET_PATH = "/s/0/t/" + "A" * 43


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One kind of load."""

    name: str
    arguments: tuple[str, ...]
    desktop: tuple[str, ...]
    unit: str
    per_answer: bool


BULK = Work(
    name="bulk",
    arguments=("--conns", "4", "--bulk"),
    desktop=("--bulk",),
    unit="MB per gateway CPU second",
    per_answer=False,
)
PULL = Work(
    name="pull 1 KiB",
    arguments=("--conns", "64", "--size", "1024"),
    desktop=("--size", "1024"),
    unit="answers per gateway CPU second",
    per_answer=True,
)


def main() -> int:
    made = report.parser("Relay throughput per gateway CPU second.")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seconds", type=float, default=1.2)
    chosen = made.parse_args()
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        print("A C compiler is needed for the load: apt-get install gcc libc6-dev", file=sys.stderr)
        return 2
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        load = build(Path(folder))
        for number in range(chosen.rounds):
            for work in (BULK, PULL):
                for stack in STACKS:
                    report.progress(f"round {number + 1} of {chosen.rounds}: {work.name} through {stack}")
                    value = measure(load, Path(folder), stack, work, chosen.seconds)
                    found.setdefault((work.name, stack), []).append(value)
    rows = []
    for work, peer, goal in (
        (BULK, "websockify", 1.6),
        (BULK, "raw", 0.95),
        (PULL, "websockify", 8.0),
        (PULL, "raw", None),
    ):
        ours, theirs = found[work.name, "gateway"], found[work.name, peer]
        rows.append(
            report.Row(
                row=f"{work.name}, {work.unit}",
                ours=round(statistics.median(ours), 1),
                peer=f"websockify {version('websockify')}"
                if peer == "websockify"
                else "bare TCP relay, same loop",
                peer_value=round(statistics.median(theirs), 1),
                goal=goal,
            )
        )
    notes = (
        "subprotocol binary, unix socket to the desktop, uvloop; medians of interleaved rounds",
        "CPU time is the gateway's own, children included; the load runs on another core where there is one",
    )
    return report.report("relay", rows, as_json=chosen.json, notes=notes)


def build(folder: Path) -> Path:
    """Compile the load."""
    compiler = shutil.which("cc") or "gcc"
    out = folder / "load"
    subprocess.run((compiler, "-O2", "-o", str(out), str(HERE / "load" / "load.c")), check=True)
    return out


def measure(load: Path, folder: Path, stack: str, work: Work, seconds: float) -> float:
    """Run one stack under one load; return what it did per second of its CPU time."""
    port, target = free_port(), folder / f"desktop-{time.monotonic_ns()}.sock"
    with process((str(load), "desktop", "--unix", str(target), *work.desktop), core=1):
        wait_for(lambda: target.exists())
        with process(command(stack, port, target), core=0) as gateway:
            wait_for(lambda: answers(port))
            arguments = [*work.arguments, "--port", str(port), "--secs", str(seconds), "--path", TICKET_PATH]
            if stack == "raw":
                arguments.append("--raw")
            done, cpu_s = run_client((str(load), "client", *arguments), gateway.pid)
    return (done["answers"] if work.per_answer else done["bytes"] / 1e6) / cpu_s


def command(stack: str, port: int, target: Path) -> tuple[str, ...]:
    if stack == "websockify":
        return (sys.executable, "-m", "websockify", f"127.0.0.1:{port}", f"--unix-target={target}")
    return (
        sys.executable,
        str(HERE / "_relay_gateway.py"),
        stack,
        "--port",
        str(port),
        "--target",
        str(target),
    )


def run_client(arguments: tuple[str, ...], gateway_pid: int) -> tuple[dict[str, float], float]:
    """Run the clients; read the gateway's CPU time at both ends of the window that they measure."""
    with subprocess.Popen(
        pinned(arguments, 1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        started = running.stdout.readline()
        if started != "START\n":
            raise SystemExit("the load did not start; is the relay broken?")
        before = cpu_times(gateway_pid)
        line = running.stdout.readline()
        after = cpu_times(gateway_pid)
        running.stdin.write("\n")
        running.stdin.close()
        if not line:
            raise SystemExit("the load ended early; is the relay broken?")
    return json.loads(line), sum(used - before.get(task, 0) for task, used in after.items()) / 1e9


def cpu_times(pid: int) -> dict[Path, int]:
    """Nanoseconds of CPU time per thread of a process and all its descendants."""
    times: dict[Path, int] = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            times[task] = int((task / "schedstat").read_text().split()[0])
            children = (task / "children").read_text().split()
        except OSError:
            continue  # it has just ended
        for child in children:
            times |= cpu_times(int(child))
    return times


@contextmanager
def process(arguments: tuple[str, ...], core: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A child in a process group of its own, ended with all it started."""
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(
        pinned(arguments, core), stdout=quiet, stderr=quiet, start_new_session=True, env=environment()
    )
    try:
        yield running
    finally:
        os.killpg(running.pid, 9)
        running.wait()


def environment() -> dict[str, str]:
    """What our parent gives to a process that carries bytes, for every stack alike."""
    return {**os.environ, **heap.environment("gateway")}


def pinned(arguments: tuple[str, ...], core: int) -> tuple[str, ...]:
    """Keep gateway and load apart where there are two cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return arguments
    return ("taskset", "-c", str(cores[core]), *arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(state: Callable[[], bool]) -> None:
    """Wait up to ten seconds for a state."""
    ends = time.monotonic() + 10
    while not state():
        if time.monotonic() > ends:
            raise SystemExit("a part of the benchmark did not start")
        time.sleep(0.02)


if __name__ == "__main__":
    raise SystemExit(main())
