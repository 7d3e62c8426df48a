"""Look on, and tell what happens to a desktop and to the line, until it ends."""

import asyncio
import os
import sys
from pathlib import Path

from session_service.client.desktop import (
    Began,
    Copied,
    Lost,
    Progress,
    Replayed,
    Resized,
    StreamEnded,
    open_desktop,
)

URL = os.environ["DESK_URL"]
TOKEN = Path(os.environ["DESK_TOKEN_FILE"]).read_text().strip()


async def main(session_id: str) -> None:
    async with open_desktop(URL, TOKEN, session_id, mode="view", device_label="watcher") as desktop:
        try:
            async for event in desktop.events():
                match event:
                    case Began(lost_input=lost):
                        print("a stream began" + (", the last keystrokes may be missing" if lost else ""))
                    case Progress(why=why):
                        print(f"not ready yet: {why}")
                    case Lost(why=why, retry_in_s=pause_s):
                        print(f"the link is gone ({why}), again in {pause_s:.1f} s")
                    case Replayed(gap_s=gap_s):
                        print(f"back after {gap_s} s, and nothing was lost")
                    case Resized(width=width, height=height):
                        print(f"now {width} x {height}")
                    case Copied(text=text):
                        print(f"somebody copied {len(text)} letters")
                    case _:
                        continue  # pictures, the bell, a pause that is planned
                sys.stdout.flush()
        except StreamEnded as ended:
            print(f"ended: {ended.facts['why']}; next: {ended.facts['next']}")


asyncio.run(main(sys.argv[1]))
