"""The fault proxy as a program, `python -m storage.fault_proxy --target 9000`. For tests only."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from storage.fault_proxy.proxy import S3FaultProxy
from storage.fault_proxy.script import BadPlan, HttpFault, Plan

EXAMPLES = """
Faults: {faults}.

  python -m storage.fault_proxy --target 9000 --port 9001 --seed 7
  curl -d '[{{"fault": "status", "status": 503, "operation": "put", "times": 5}}]' localhost:9001/-/faults
  curl -d '{{"fault": "flipped", "times": 0, "probability": 0.01}}' localhost:9001/-/faults
  curl localhost:9001/-/seen              what was asked, and what went wrong
  curl -X DELETE localhost:9001/-/faults  heal
"""


async def _run(target: tuple[str, int], port: int, plans: Sequence[Plan], seed: int) -> None:
    proxy = S3FaultProxy(target[1], target[0], seed=seed)
    for plan in plans:
        proxy.script.add(plan)
    await proxy.start(port)
    sys.stdout.write(f"{proxy.endpoint}\n")
    sys.stdout.flush()  # whoever started it reads the port here
    await asyncio.Event().wait()


def _target(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def _plans(text: str) -> list[Plan]:
    items = json.loads(text)
    try:
        return [Plan.from_json(one) for one in (items if isinstance(items, list) else [items])]
    except BadPlan as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def main() -> None:
    """Run until ended."""
    parser = argparse.ArgumentParser(
        prog="python -m storage.fault_proxy",
        description="An S3 server's bad days: passes requests on, and does wrong what it is told to.",
        epilog=EXAMPLES.format(faults=", ".join(fault.value for fault in HttpFault)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", type=_target, required=True, help="[HOST:]PORT of the real server, HTTP")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--plan", type=_plans, default=[], help="faults from the start, as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of whatever is left to chance")
    given = parser.parse_args()
    try:
        asyncio.run(_run(given.target, given.port, given.plan, given.seed))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
