"""`demo`: the whole story on real parts, narrated, in under a minute."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from session_service.app.settings import store_flaw
from session_service.cli import console
from session_service.cli.console import AsJson
from session_service.cli.stage import Stage
from session_service.cli.story import Step, Story

HOLD_S: Final = 10.0
BARE: Final = "minio"
"""What `--s3` stands for when no address follows."""
SENTENCES: Final = {
    "start a desktop": "A desktop was started; it is held until somebody comes.",
    "type through a websocket": "A file was written in its terminal, and read back from storage.",
    "cut the connection without a close": "The connection was cut. The desktop is held.",
    "come back to the same desktop": "Back: same process, same shell, same picture.",
    "stay away longer than the hold": "Away too long: all was saved and checked, then the desktop closed.",
    "check what the close proved": "The receipt, the log and the file in storage agree.",
    "start again and find the file": "A new desktop has the file, with the same hash.",
}


def _line(step: Step) -> None:
    mark = "ok  " if step.ok else "FAIL"
    words = SENTENCES[step.name] if step.ok else f"{step.name}: {step.facts.get('error')}"
    told = "  ".join(
        f"{name}={_short(value)}" for name, value in step.facts.items() if name not in {"error", "code"}
    )
    console.out.print(f"{mark} {step.seconds:5.1f} s  {words}", markup=False)
    if told:
        console.out.print(f"              {told}", markup=False, style="dim")


def _short(value: Any) -> str:
    text = " > ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 26 else text[:12] + "..." + text[-8:]


def demo(
    json: AsJson = False,
    s3: Annotated[
        str,
        typer.Option(
            "--s3", metavar="[URL]", help="Use this S3 store; --s3 alone starts a MinIO for the purpose."
        ),
    ] = "",
    credentials_file: Annotated[
        Path | None,
        typer.Option("--credentials-file", help="Lines access_key = ... and secret_key = ... of that store."),
    ] = None,
) -> None:
    """Play the whole story on real parts, and check every step.

    Start, work, lose the connection, come back, stay away, find every file. Exit status 1 if not.

    Example: session-service demo --s3 --json
    """
    if s3 not in {"", BARE} and (flaw := store_flaw(s3)):
        raise typer.BadParameter(
            f"{s3} {flaw}. Without an address --s3 starts a MinIO for the purpose.", param_hint="--s3"
        )
    steps: list[Step] = []

    def tell(step: Step) -> None:
        steps.append(step)
        if not json:
            _line(step)

    async def play() -> bool:
        async with Stage(hold_s=HOLD_S, store_url=s3, credentials_file=credentials_file) as stage:
            if not json:
                where = "MinIO, started for this" if s3 == BARE else s3 or "a folder"
                console.out.print(
                    f"A real service with a hold of {HOLD_S:.0f} s is up; files go to {where}.\n"
                )
            good = await Story(stage, tell=tell, away_s=HOLD_S).play()
            if not good:
                print(stage.log_tail(), file=sys.stderr)
            return good

    good = asyncio.run(play())
    if json:
        console.print_json({"ok": good, "steps": [asdict(step) for step in steps]})
    else:
        console.out.print("\nNothing was lost." if good else "\nThe story did not go as promised.")
    if not good:
        sys.exit(1)


def with_bare_s3(arguments: list[str]) -> list[str]:
    """Let `--s3` stand alone, which the option parser cannot: it then means a MinIO of ours."""
    if "demo" not in arguments:
        return arguments
    done = list(arguments)
    for place, word in enumerate(arguments):
        if word == "--s3" and (place + 1 == len(arguments) or arguments[place + 1].startswith("-")):
            done[place] = f"--s3={BARE}"
    return done
