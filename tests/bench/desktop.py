"""`./deploy/bench desktop`: how soon a desktop is ready, and a service that finds fifty of them again.

Ready is what the launch says: the display's inputs are up, the window manager's check window is there, the
RFB server has said who it is. Each is started in its sandbox with its network, as for a user; beside it, one
after the other, the same Xvnc is started alone: no sandbox, no network, nothing on it. The service is
the whole of `session-service serve`, from its start to its answer that people can attach. The other rows have
no goal; they say what a desktop costs.
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import report

from session_service.host import display, pipes, sandbox, spawn
from session_service.ports.desktops import Handle, Presence
from tests.fakes.desktop_world import DesktopWorld
from tests.fakes.running_service import RunningService

READY_GOAL_MS = 200.0
AGAIN_GOAL_MS = 1000.0
SETTLE_S = 0.5
"""Between two desktops: the kernel goes on taking the namespaces of the last one apart after its end."""


def ms_since(began: float) -> float:
    """Return the milliseconds since a reading of the clock."""
    return (time.perf_counter() - began) * 1000


async def one_by_one(world: DesktopWorld, template: str, rounds: int) -> dict[str, list[float]]:
    """Start, freeze, thaw and end desktops, one at a time; the first fills caches and does not count."""
    took: dict[str, list[float]] = {"ready": [], "alone": [], "freeze": [], "end": [], "memory": []}
    for number in range(rounds + 1):
        await asyncio.sleep(SETTLE_S)
        alone = await display_alone()
        result = await world.provider.launch(await world.spec(template=template, network="isolated"))
        seen = await world.provider.observe(result.handle)
        began = time.perf_counter()
        await world.provider.freeze(result.handle)
        freeze = ms_since(began)
        began = time.perf_counter()
        await world.provider.end(result.handle, world.proof(result.handle, "verified"))
        end = ms_since(began)
        await world.provider.wipe(result.handle, world.proof(result.handle, "same"))
        if number:
            took["ready"].append(result.ready_ms)
            took["alone"].append(alone)
            took["freeze"].append(freeze)
            took["end"].append(end)
            took["memory"].append((seen.memory_bytes or 0) / (1 << 20))
    return took


async def display_alone() -> float:
    """Start the X server of a desktop and nothing else; returns the milliseconds until it says it is up."""
    with tempfile.TemporaryDirectory() as folder:
        cookie = Path(folder) / "xauth"
        cookie.write_bytes(display.cookie_entry(os.urandom(display.COOKIE_BYTES)))
        read, write = os.pipe2(os.O_CLOEXEC)
        flags = display.flags(
            run_folder=folder, cookie_file=str(cookie), geometry=(1280, 800), title="alone", shared=False
        )
        began = time.perf_counter()
        pid = spawn.spawn(
            [sandbox.program("Xvnc"), "-displayfd", "3", *flags],
            descriptors={3: write},
            environment={"PATH": sandbox.SEARCH},
        )
        os.close(write)
        word = await pipes.read_until(read, b"\n")
        took = ms_since(began)
        os.kill(pid, signal.SIGTERM)
        await asyncio.to_thread(os.waitpid, pid, 0)
        assert word, "the display did not start"
        return took


async def at_once(world: DesktopWorld, count: int) -> tuple[list[Handle], float]:
    """Start many desktops at once; returns them and how long it took until all were ready."""
    specs = [await world.spec(template="bare", network="isolated") for _ in range(count)]
    began = time.perf_counter()
    results = await asyncio.gather(*(world.provider.launch(spec) for spec in specs))
    return [result.handle for result in results], ms_since(began)


async def found_again(world: DesktopWorld, count: int) -> float:
    """Kill the host and start it; returns the milliseconds until it answers with every desktop running."""
    await world.kill_host()
    began = time.perf_counter()
    await world.start_host()
    seen = await world.provider.census()
    took = ms_since(began)
    running = [desktop for desktop in seen if desktop.presence is Presence.RUNNING]
    assert len(running) == count, f"{len(running)} of {count} were found again"
    return took


async def service_again(count: int, rounds: int) -> tuple[list[float], float]:
    """Stop and start the whole service while its desktops run.

    Returns the milliseconds until each is ready, and those of one without a desktop.
    """
    async with RunningService(hold_s=3600, template="bare", settings={"desktops.network": "none"}) as service:
        account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
        await service.call("POST", "/api/v1/users", account)
        alone = await _started(service)
        for number in range(count):
            wish = {}
            if number:  # the first one is the default home: a user has fifty in all
                workspace = await service.api("POST", "/workspaces", {"name": f"home {number}"})
                wish = {"workspace_id": workspace["id"]}
            session = await service.api("POST", "/sessions", wish)
            await service.until_state(session["id"], "active", "held")
        took = [await _started(service) for _ in range(rounds)]
        left = [each for each in await service.sessions() if each["state"] in ("active", "held")]
        assert len(left) == count, f"{len(left)} of {count} were found again"
        return took, alone


async def _started(service: RunningService) -> float:
    await service.halt()
    began = time.perf_counter()
    await service.start()
    return ms_since(began)


async def measure(rounds: int, many: int) -> list[report.Row]:
    """Measure everything, on a state folder of its own."""
    async with DesktopWorld() as world:
        report.progress(f"{rounds} desktops, one by one")
        took = await one_by_one(world, "openbox", rounds)
        report.progress(f"{many} desktops, at once")
        handles, all_ready = await at_once(world, many)
        report.progress("a new host")
        again = [await found_again(world, many) for _ in range(3)]
        await asyncio.gather(*(world.end(handle) for handle in handles))
    report.progress(f"the whole service, with {many} desktops")
    services, alone = await service_again(many, 5)
    middle = {name: statistics.median(values) for name, values in took.items()}
    return [
        report.Row(
            row="desktop ready, openbox, median ms",
            ours=round(middle["ready"], 1),
            goal=READY_GOAL_MS,
            less_is_better=True,
        ),
        report.Row(
            row=f"new host answers with {many} desktops found again, ms",
            ours=round(statistics.median(again), 1),
            goal=AGAIN_GOAL_MS,
            less_is_better=True,
        ),
        report.Row(
            row=f"service ready with {many} desktops to adopt, median ms",
            ours=round(statistics.median(services), 1),
            goal=AGAIN_GOAL_MS,
            less_is_better=True,
        ),
        report.Row(row="service ready without a desktop, ms", ours=round(alone, 1)),
        report.Row(row="Xvnc alone is up, median ms", ours=round(middle["alone"], 1)),
        report.Row(row=f"{many} desktops started at once, all ready, ms", ours=round(all_ready, 1)),
        report.Row(row="freeze of a whole desktop, median ms", ours=round(middle["freeze"], 2)),
        report.Row(row="end of a desktop with proof, median ms", ours=round(middle["end"], 1)),
        report.Row(row="memory of a desktop when it is ready, MiB", ours=round(middle["memory"], 1)),
    ]


def main() -> int:
    """Run it."""
    parser = report.parser("Desktops of this machine: ready, frozen, ended, found again.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--many", type=int, default=50)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.rounds, options.many))
    return report.report("desktop", rows, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
