"""The HTTP session under the S3 client: sends a request once.

aiohttp repeats a PUT by itself when a kept-alive connection turns out to be closed. If the first copy had
landed and the repeat then failed to connect, we would say "nothing was written". So the repeat is switched
off; the attribute has no public name, and a contract test with a lost answer notices if it stops working.
Loaded only with the client, because its parent takes 0.2 s.
"""

from typing import Any

from aiobotocore.httpsession import AIOHTTPSession


class OneTrySession(AIOHTTPSession):
    """`AIOHTTPSession` without the repeat of its library."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)  # type: ignore[misc] # the stubs leave it out
        session._retry_connection = False
        return session
