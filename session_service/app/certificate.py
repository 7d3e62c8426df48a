"""The certificate of the one port: TLS 1.2 and newer, loaded again without a restart.

Not a key store: two PEM files, renewed by whoever renews them. They are read again on SIGHUP and when they
have changed; a pair that does not fit together (half of a renewal) leaves the older one in use until it does.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Final

from session_service.app.refused import ConfigurationRefused
from session_service.base import log

LOOK_EVERY_S: Final = 30.0
"""Between looks at the files; a renewal is weeks before the end of the older certificate."""


class Certificate:
    """One pair of files and the context made of them. New connections use the newest pair."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._look()
        self._again = asyncio.Event()
        try:
            self.context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigurationRefused(f"the TLS files cannot be used: {exc}") from exc

    def reload(self) -> bool:
        """Read the files now; say whether they are in use."""
        self._seen = self._look()
        try:
            # Into a context of its own first: a half-written pair must not spoil the one in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as exc:
            log.get_logger().warning("certificate.refused", detail=str(exc))
            self._seen = ()
            return False
        log.get_logger().info("certificate.loaded", file=str(self._files[0]))
        return True

    def look_now(self) -> None:
        """Read the files soon, changed or not."""
        self._seen = ()
        self._again.set()

    async def watch(self, every_s: float = LOOK_EVERY_S) -> None:
        """Reload whenever the files have changed, until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._again.wait(), every_s)
            except TimeoutError:
                pass
            self._again.clear()
            if self._look() != self._seen:
                self.reload()

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        try:
            found = [path.stat() for path in self._files]
        except OSError:
            return ()
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)
