"""Start a desktop, work in it, keep a picture, and end it: files are saved, then the desktop ends."""

import asyncio
import os
from pathlib import Path

from session_service.client.api import Api
from session_service.client.desktop import open_desktop
from session_service.client.transport import Transport

URL = os.environ["DESK_URL"]  # http://127.0.0.1:8080
TOKEN = Path(os.environ["DESK_TOKEN_FILE"]).read_text().strip()


async def main() -> None:
    async with Transport(URL, token=TOKEN) as transport:
        api = Api(transport)
        session = await api.start()  # or the one that is open already
        async with open_desktop(URL, TOKEN, session.id, device_label="bot") as desktop:
            before = await desktop.screenshot()  # waits until the desktop is there
            await desktop.click(300, 300)
            await desktop.type("echo hello > ~/bot.txt; clear; seq 20\n")
            after = await desktop.until(lambda picture: picture.differing(before) > 500, limit_s=30)
            Path("bot.png").write_bytes(after.png())
        ended = await api.end(session.id, reason="the bot is done")
        print(f"{session.id} is {ended.state}; its picture is in bot.png")


asyncio.run(main())
