"""`./deploy/bench storage`: checkpoints of a seeded home against restic and borg, in one run.

Every phase is a process of its own, ours as theirs, so the start of an interpreter is in our seconds. Tools
take turns within a round, each with a fresh copy of the home, and medians of rounds are shown. The phases:
first (whole home, empty store), no change, a day (about one per cent), a minute (about 100 kB), restore.
Resident is the second of two checkpoints in one process: what a running service pays without notification;
notified is what it pays with it, for no change, a minute (a tick), and a day that nobody saved in between.

The places: a folder in memory, one on a disk, SeaweedFS and MinIO on the same two cores (first checkpoint
only), and in memory a home that is one large file, changed in its middle.

Everything is in the page cache: a cold disk and a far store would change first checkpoint and restore. The
restores are compared with what they came from, byte by byte and second by second.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from session_service.app import heap
from tests.bench import report
from tests.fakes.minio import minio, minio_program
from tests.fakes.s3_server import S3Server
from tests.fakes.seaweedfs import seaweedfs

HERE = Path(__file__).resolve().parent
MEMORY_FOLDER = Path("/dev/shm")
SETTLE_S = 2.2
"""All three distrust files that are younger than their last run."""
SEED = 1
CHECKPOINTS = ("first", "no change", "resident", "a day", "a minute", "notified", "restore")
CHANGES = {"a day": "day", "a minute": "minute"}
GOALS_RESTIC = {
    "first": 4.0,
    "no change": 8.0,
    "resident": 10.0,
    "a day": 6.0,
    "a minute": 9.0,
    "restore": 3.5,
}
GOALS_BORG = {"first": 5.0, "no change": 15.0, "a day": 11.0, "a minute": 16.0, "restore": 7.0}
GOALS_NOTIFIED_S = {"no change": 0.010, "tick": 0.060}
GOALS_STORED_MB = {"a day": 9.0, "a minute": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    told: dict[str, float] = field(default_factory=dict)
    stored_mb: float = 0.0
    objects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one tool works in one round."""

    folder: Path
    server: S3Server | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def store(self) -> Path:
        return self.folder / "store"


class Ours:
    """This project, by the process that `_storage_phase.py` is, its allocator told what a worker's is."""

    name = "ours"
    phases = CHECKPOINTS

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def command(self, phase: str, place: Place, number: int) -> Sequence[str]:
        what = {"init": "birth", "restore": "restore", "notified": "notified"}.get(phase, "checkpoint")
        url = f"file://{place.store}?create=true"
        keys: list[str] = []
        if place.server is not None:
            url = place.server.url("bench", place.folder.name)
            keys = ["--keys", str(keys_file(place))]
        home = place.folder / "back" if phase == "restore" else place.home
        resident = ["--resident"] if phase == "resident" else []
        script = str(HERE / "_storage_phase.py")
        where = ["--store", url, "--cache", str(place.folder / "cache"), "--home", str(home)]
        allocator = [f"{name}={said}" for name, said in heap.environment("worker-0").items()]
        scale = ["--scale", str(self._scale)]
        return ["env", *allocator, sys.executable, "-P", script, what, *where, *keys, *resident, *scale]


class Restic:
    """restic with its own cache, encrypted as it always is."""

    name = "restic"
    phases = tuple(phase for phase in CHECKPOINTS if phase not in ("resident", "notified"))

    def command(self, phase: str, place: Place, number: int) -> Sequence[str]:
        store = str(place.store)
        if place.server is not None:
            # Each server is new. A folder's name may hold what a bucket's may not.
            store = f"s3:{place.server.endpoint}/peer"
        base = ["restic", "-q", "-r", store, "--cache-dir", str(place.folder / "cache")]
        if phase == "init":
            return [*base, "init"]
        if phase == "restore":
            return [*base, "restore", "latest", "--target", str(place.folder / "back")]
        return [*base, "backup", str(place.home)]


class Borg:
    """borg with its defaults, encrypted."""

    name = "borg"
    phases = tuple(phase for phase in CHECKPOINTS if phase not in ("resident", "notified"))

    def command(self, phase: str, place: Place, number: int) -> Sequence[str]:
        if phase == "init":
            return ["borg", "init", "-e", "repokey-blake2", str(place.store)]
        if phase == "restore":
            back = place.folder / "back"
            back.mkdir()
            return ["env", "-C", str(back), "borg", "extract", f"{place.store}::c{number - 1}"]
        return ["borg", "create", f"{place.store}::c{number}", str(place.home)]


Tool = Ours | Restic | Borg


def keys_file(place: Place) -> Path:
    """Return the file with the keys of the server."""
    assert place.server is not None
    path = place.folder / "keys"
    path.write_text("".join(f"{name} = {value}\n" for name, value in place.server.keys.items()))
    path.chmod(0o600)
    return path


def environment(place: Place) -> dict[str, str]:
    """Return what the peers read; the word is no secret.

    Ours is compiled once, as an installed copy is, whatever the caller's environment says of that.
    """
    keys = place.server.keys if place.server is not None else {}
    base = str(place.folder / "borg")
    inherited = {name: said for name, said in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        **keys,
        "PYTHONPYCACHEPREFIX": str(place.folder / "compiled"),
        "RESTIC_PASSWORD": "bench",
        "BORG_PASSPHRASE": "bench",
        "BORG_BASE_DIR": base,
    }


def measure(command: Sequence[str], place: Place) -> Cost:
    """Run one process to its end."""
    began = time.perf_counter()
    with open(place.folder / "words", "ab") as words:
        process = subprocess.Popen(command, env=environment(place), stdout=subprocess.PIPE, stderr=words)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        words_said = (place.folder / "words").read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"{command} ended with {process.returncode}: {words_said}")
    return Cost(
        wall_s=time.perf_counter() - began,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_mb=used.ru_maxrss / 1024,
        told=json.loads(told) if told.startswith(b"{") else {},
    )


def phases_of(
    tool: Tool, place: Place, pristine: Path, wanted: Sequence[str], scale: float, *, alone: bool = False
) -> Iterator[tuple[str, Cost]]:
    """Take one tool through its phases on a fresh copy of the home; `alone`: which is one large file."""
    subprocess.run(["cp", "-a", str(pristine), str(place.home)], check=True)
    measure(tool.command("init", place, 0), place)
    number = 0
    for phase in wanted:
        if phase not in tool.phases:
            continue
        if phase in CHANGES:
            change = "middle" if alone else CHANGES[phase]
            with_home(change, place.home, seed=SEED + len(phase), scale=scale)
        time.sleep(SETTLE_S)
        before = size_of(place.store)
        cost = measure(tool.command(phase, place, number), place)
        after = size_of(place.store)
        number += phase != "restore"
        if phase == "resident":
            cost = Cost(wall_s=cost.told["inside_s"], cpu_s=cost.cpu_s, peak_mb=cost.peak_mb)
        if phase == "restore":
            check_same(place)
        yield (
            phase,
            Cost(
                wall_s=cost.wall_s,
                cpu_s=cost.cpu_s,
                peak_mb=cost.peak_mb,
                told=cost.told,
                stored_mb=(after[0] - before[0]) / 1e6,
                objects=after[1] - before[1],
            ),
        )


def size_of(store: Path) -> tuple[int, int]:
    """Return bytes and number of the files below a folder."""
    found = [path.lstat().st_size for path in store.rglob("*") if path.is_file()] if store.is_dir() else []
    return sum(found), len(found)


def check_same(place: Place) -> None:
    """Compare a restored home with the home; restic and borg put it below its whole path."""
    back = place.folder / "back"
    below = back / place.home.relative_to("/")
    if with_home("picture", below if below.is_dir() else back) != with_home("picture", place.home):
        raise RuntimeError(f"what was restored in {back} is not what was saved")


def with_home(what: str, folder: Path, *, seed: int = SEED, scale: float = 1.0) -> str:
    """Make, change or picture a home in a process of its own.

    A child's peak memory begins with that of whoever started it (`ru_maxrss` outlives exec), so this one
    must stay small.
    """
    command = [sys.executable, "-P", str(HERE / "_storage_home.py"), what, str(folder), str(seed), str(scale)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def copy_home(pristine: Path, folder: Path) -> Cost:
    """What the file system itself takes: `cp -a`, one thread, no check."""
    place = Place(folder=folder)
    return measure(["cp", "-a", str(pristine), str(folder / "copy")], place)


Found = dict[tuple[str, str], list[Cost]]


def rounds_on(where: Path, pristine: Path, asked: argparse.Namespace, name: str) -> Found:
    """Run every tool in turn, `rounds` times; the key is (tool, phase)."""
    found: Found = {}
    tools: tuple[Tool, ...] = (Ours(asked.scale), Restic(), Borg())
    for number in range(asked.rounds):
        for tool in tools:
            report.progress(
                f"{name}, round {number + 1} of {asked.rounds}: {tool.name} (load {os.getloadavg()[0]:.1f})"
            )
            with tempfile.TemporaryDirectory(prefix=f"bench-{tool.name}-", dir=where) as folder:
                for phase, cost in phases_of(
                    tool, Place(folder=Path(folder)), pristine, CHECKPOINTS, asked.scale
                ):
                    found.setdefault((tool.name, phase), []).append(cost)
        with tempfile.TemporaryDirectory(prefix="bench-copy-", dir=where) as folder:
            found.setdefault(("cp -a", "restore"), []).append(copy_home(pristine, Path(folder)))
    return found


def first_on_server(
    where: Path, pristine: Path, asked: argparse.Namespace, new_server: Callable[[Path], S3Server]
) -> Found:
    """The first checkpoint into a real S3 server on the same two cores."""
    found: Found = {}
    for number in range(asked.rounds):
        for tool in (Ours(asked.scale), Restic()):
            report.progress(f"{new_server.__name__}, round {number + 1} of {asked.rounds}: {tool.name}")
            with ExitStack() as stack:
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix=f"bench-{tool.name}-", dir=where)
                )
                server = new_server(Path(folder) / "server")
                server.start()
                stack.callback(server.kill)
                for phase, cost in phases_of(
                    tool, Place(folder=Path(folder), server=server), pristine, ("first",), asked.scale
                ):
                    found.setdefault((tool.name, phase), []).append(cost)
    return found


def minio_server(folder: Path) -> S3Server:
    """Return MinIO, or end where it is not built."""
    program = minio_program()
    if program is None:
        sys.exit("MinIO is not built: run deploy/test, or set SESSION_SERVICE_TEST_MINIO")
    return minio(folder, program)


def server_rows(found: Found, name: str) -> list[report.Row]:
    """Return the rows of one server."""
    ours, theirs = found["ours", "first"], found["restic", "first"]
    return [
        against(f"{name}: first, s", ours, theirs, "wall_s", "restic", 3.0),
        against(f"{name}: first, CPU s", ours, theirs, "cpu_s", "restic", None),
        value(f"{name}: first, peak MB", middle(ours, "peak_mb"), 150.0),
    ]


def one_file(where: Path, asked: argparse.Namespace) -> list[report.Row]:
    """A home that is one large file: nothing can be done beside reading it."""
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="bench-one-", dir=where) as base:
        pristine = Path(base) / "home"
        with_home("one", pristine, scale=asked.scale)
        for number in range(asked.rounds):
            for tool in (Ours(asked.scale), Restic()):
                report.progress(f"one file, round {number + 1} of {asked.rounds}: {tool.name}")
                with tempfile.TemporaryDirectory(prefix=f"bench-{tool.name}-", dir=where) as folder:
                    place = Place(folder=Path(folder))
                    steps = phases_of(tool, place, pristine, ("first", "a day"), asked.scale, alone=True)
                    for phase, cost in steps:
                        found.setdefault((tool.name, phase), []).append(cost)
    rows: list[report.Row] = []
    for phase, name in (("first", "first"), ("a day", "changed in its middle")):
        ours, theirs = found["ours", phase], found["restic", phase]
        rows += [
            against(f"one file: {name}, s", ours, theirs, "wall_s", "restic", None),
            against(f"one file: {name}, CPU s", ours, theirs, "cpu_s", "restic", None),
            against(f"one file: {name}, MB stored", ours, theirs, "stored_mb", "restic", None),
            value(f"one file: {name}, peak MB", middle(ours, "peak_mb"), 150.0),
        ]
    return rows


def middle(costs: list[Cost], what: str) -> float:
    """Return the median of one property of costs."""
    return round(float(statistics.median(getattr(cost, what) for cost in costs)), 3)


def rows_of(found: Found, name: str) -> list[report.Row]:
    """Return the rows of one place."""
    rows: list[report.Row] = []
    for phase in CHECKPOINTS:
        if phase == "notified":
            rows += notified_rows(found["ours", phase], found["restic", "a day"], name)
            continue
        ours = found["ours", phase]
        for peer, goals in (("restic", GOALS_RESTIC), ("borg", GOALS_BORG)):
            theirs = found.get((peer, "no change" if phase == "resident" else phase))
            if theirs is None or (peer == "borg" and phase == "resident"):
                continue
            rows.append(against(f"{name}: {phase}, s", ours, theirs, "wall_s", peer, goals.get(phase)))
            rows.append(against(f"{name}: {phase}, CPU s", ours, theirs, "cpu_s", peer, None))
            if phase in ("first", "a day", "a minute"):
                rows.append(against(f"{name}: {phase}, MB stored", ours, theirs, "stored_mb", peer, None))
                rows.append(against(f"{name}: {phase}, objects", ours, theirs, "objects", peer, None))
        rows.append(value(f"{name}: {phase}, peak MB", middle(ours, "peak_mb"), 150.0))
    for phase, goal in GOALS_STORED_MB.items():
        rows.append(value(f"{name}: {phase}, MB stored", middle(found["ours", phase], "stored_mb"), goal))
    rows.append(value(f"{name}: a minute, objects", middle(found["ours", "a minute"], "objects"), 1.0))
    restored = found["ours", "restore"]
    rows.append(against(f"{name}: restore, s", restored, found["cp -a", "restore"], "wall_s", "cp -a", 1.0))
    usable = statistics.median(cost.told["usable_s"] for cost in restored)
    rows.append(value(f"{name}: time to usable, s", round(usable, 3), 0.5))
    return rows


def notified_rows(ours: list[Cost], restic_day: list[Cost], name: str) -> list[report.Row]:
    """Return what a process that watches the home takes; no peer has anything like it.

    A day is set against what restic takes for one, always a new process.
    """
    rows: list[report.Row] = []
    for what, goal in GOALS_NOTIFIED_S.items():
        for unit, key in (("s", "s"), ("CPU s", "cpu_s")):
            seconds = statistics.median(cost.told[f"{what.replace(' ', '_')}_{key}"] for cost in ours)
            rows.append(value(f"{name}: {what} notified, {unit}", round(seconds, 4), goal))
    for unit, key, theirs in (("s", "day_s", "wall_s"), ("CPU s", "day_cpu_s", "cpu_s")):
        row = report.Row(
            row=f"{name}: a day notified, {unit}",
            ours=round(float(statistics.median(cost.told[key] for cost in ours)), 3),
            peer=VERSIONS["restic"],
            peer_value=middle(restic_day, theirs),
            goal=GOALS_RESTIC["a day"] if unit == "s" else None,
            less_is_better=True,
        )
        rows.append(row)
    return rows


def against(
    row: str, ours: list[Cost], theirs: list[Cost], what: str, peer: str, goal: float | None
) -> report.Row:
    """Return a row beside a peer; less is better in all of them."""
    return report.Row(
        row=row,
        ours=middle(ours, what),
        peer=VERSIONS[peer],
        peer_value=middle(theirs, what),
        goal=goal,
        less_is_better=True,
    )


def value(row: str, ours: float, goal: float) -> report.Row:
    """Return a row with a goal of our own."""
    return report.Row(row=row, ours=ours, goal=goal, less_is_better=True)


PLACES = "tmpfs,disk,seaweedfs,minio,one"
SERVERS: dict[str, Callable[[Path], S3Server]] = {"seaweedfs": seaweedfs, "minio": minio_server}
VERSIONS: dict[str, str] = {"cp -a": "cp -a"}


def look_for_peers() -> None:
    """Note the peers' versions, or end."""
    for peer, asked in (("restic", "version"), ("borg", "--version")):
        if shutil.which(peer) is None:
            sys.exit(f"{peer} is missing: apt-get install restic borgbackup")
        told = subprocess.run([peer, asked], capture_output=True, text=True, check=True).stdout.split()
        VERSIONS[peer] = f"{peer} {told[1]}"


def rows_at(name: str, where: Path, pristine: Path, asked: argparse.Namespace) -> list[report.Row]:
    """Measure at one of PLACES and return its rows."""
    if name in SERVERS:
        return server_rows(first_on_server(where, pristine, asked, SERVERS[name]), name)
    if name == "one":
        return one_file(where, asked)
    return rows_of(rounds_on(where, pristine, asked, name), name)


def main() -> int:
    made = report.parser("Checkpoints and restores of a seeded home.")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--scale", type=float, default=1.0, help="share of the full size, about 1 GiB")
    made.add_argument("--places", default=PLACES, help=f"some of {PLACES}")
    asked = made.parse_args()
    look_for_peers()
    rows: list[report.Row] = []
    failed: list[str] = []
    load = os.getloadavg()[0]
    quick = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="bench-home-", dir=quick) as folder:
        pristine = Path(folder) / "home"
        report.progress("making the home")
        with_home("make", pristine, scale=asked.scale)
        size, files = size_of(pristine)
        for name in asked.places.split(","):
            where = Path(tempfile.gettempdir()) if name == "disk" else quick
            try:
                rows += rows_at(name, where, pristine, asked)
            except RuntimeError as error:  # what the other places cost stays worth telling
                failed.append(f"{name} gave no figures: {error}")
                report.progress(failed[-1])
    notes = (
        *failed,
        f"home of {size / 1e6:.0f} MB in {files} files; medians of {asked.rounds} rounds, tools in turn",
        f"load average when it began {load:.1f}, when it ended {os.getloadavg()[0]:.1f}; compare ratios only",
        "each phase is a fresh process, its start included, but resident; MB and objects: what a phase added",
    )
    return report.report("storage", rows, as_json=asked.json, notes=notes) or bool(failed)


if __name__ == "__main__":
    sys.exit(main())
