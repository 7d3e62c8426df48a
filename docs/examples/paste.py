"""Paste a line of any letters into the terminal of a desktop that is made 1600 x 900 before."""

import asyncio
import os
import sys
from pathlib import Path

from session_service.client import keys
from session_service.client.desktop import MIDDLE, NotResizable, open_desktop

URL = os.environ["DESK_URL"]
TOKEN = Path(os.environ["DESK_TOKEN_FILE"]).read_text().strip()


async def main(session_id: str, text: str) -> None:
    async with open_desktop(URL, TOKEN, session_id) as desktop:
        try:
            await desktop.resize(1600, 900)
            await desktop.until(lambda picture: picture.width == 1600, limit_s=10)
        except NotResizable:
            print(f"this desktop stays at {desktop.size}")
        await desktop.type("cat > pasted.txt\n")
        before = await desktop.settled(quiet_s=0.5, limit_s=30)
        await desktop.copy(text)
        await desktop.click(300, 300, button=MIDDLE)  # how a terminal of X pastes
        # A paste takes its time: keys that are sent at once would be there before it.
        await desktop.until(lambda picture: picture.differing(before) > 10 * len(text), limit_s=30)
        await desktop.press(keys.RETURN)
        await desktop.press(keys.CONTROL, ord("d"))


asyncio.run(main(*sys.argv[1:]))
