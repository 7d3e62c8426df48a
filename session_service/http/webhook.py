"""Posts one JSON message to a URL that an administrator named. Follows no redirect and reads no answer
but its status.
"""

import aiohttp


class NotDelivered(Exception):
    """The receiver did not take the message. Says why."""


async def post_json(url: str, body: bytes) -> None:
    """POST `body`; the caller limits the time. Raises NotDelivered."""
    headers = {"Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status >= 300:
                raise NotDelivered(f"status {answer.status}")
    except aiohttp.ClientError as exc:
        raise NotDelivered(str(exc)) from exc
