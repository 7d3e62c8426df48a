"""A process that writes to a registry until it is killed, or until its disk is full. Not imported: run.

`kill FOLDER`: commits units without end and prints each number after its answer. `full FOLDER`: lets the file
grow to a limit of the kernel, lifts the limit, and prints what happened as JSON.
"""

import asyncio
import json
import resource
import signal
import sys
from pathlib import Path

from session_service.base import log
from session_service.base.errors import RegistryUnavailable
from session_service.core.changes import PutSetting, Unit
from session_service.core.records import AuditEntry
from session_service.registry.sqlite import FILE_NAME, SqliteRegistry

TOGETHER = 8
ROOM_BYTES = 256 << 10


def unit(number: int, size: int = 2000) -> Unit:
    return Unit(
        writes=(
            PutSetting(name=f"a{number}", value=b"x" * size, expected=None),
            PutSetting(name=f"b{number}", value=str(number).encode(), expected=None),
        ),
        audit=(AuditEntry(kind="test.written", actor="test", at_ms=number),),
    )


async def write_for_ever(registry: SqliteRegistry, first: int) -> None:
    async def one(start: int) -> None:
        number = start
        while True:
            await registry.commit(unit(number))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            number += TOGETHER

    async with asyncio.TaskGroup() as group:
        for start in range(first, first + TOGETHER):
            group.create_task(one(start))


async def write_until_full(registry: SqliteRegistry, folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    await registry.commit(unit(0))
    biggest = max(member.stat().st_size for member in folder.iterdir())
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (biggest + ROOM_BYTES, hard))
    answered, number, causes = [0], 1, []
    while len(causes) < 3:
        try:
            await registry.commit(unit(number))
            answered.append(number)
        except RegistryUnavailable as exc:
            causes.append(exc.facts["cause"])
        number += 1
    readable = [one for one in answered if await registry.setting(f"b{one}") == str(one).encode()]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await registry.commit(unit(number))
    answered.append(number)
    records = await registry.verify_audit()
    report = {"answered": answered, "readable": len(readable), "causes": causes, "records": records}
    sys.stdout.write(json.dumps(report))


async def main() -> None:
    mode, folder, first = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    log.configure(json=True, level="error")
    registry = await SqliteRegistry.open(folder / FILE_NAME)
    if mode == "kill":
        await write_for_ever(registry, first)
    else:
        await write_until_full(registry, folder)
    await registry.close()


if __name__ == "__main__":
    asyncio.run(main())
