"""Every limit of `continuity.v1`, with its unit, its reason, and what happens when it is reached.

Not settings: both ends of the wire must agree on them, so they stand here once for server, client and tests.

Source: docs/protocol.md.
"""

from typing import Final

SUBPROTOCOL: Final = "continuity.v1"
OFFSET_MAX: Final = 2**52
"""Offsets and counters lie below it, so that a browser's numbers hold them; at it the stream resyncs."""
TEXT_BYTES_MAX: Final = 4096
"""One control message; more is 1009."""
DEPTH_MAX: Final = 4
"""Nesting of a control message; more is 4400."""
MESSAGE_BYTES_MAX: Final = 65536
"""One message of bytes, either way; a client's larger one is 4413, the server cuts its own."""
LABEL_CHARACTERS_MAX: Final = 64
"""The label of the device that took over."""
NOTE_CHARACTERS_MAX: Final = 200
"""What people are told about a planned pause."""

DOWN_RING_BYTES: Final = 4 << 20
"""Unacknowledged towards a client; then its desktop is not read. Below 1 MiB the stream starves. An operator
may choose another number within the next two (`gateway.ring_mib`); a client takes it from `opened`.
"""
DOWN_RING_BYTES_MIN: Final = 1 << 20
DOWN_RING_BYTES_MAX: Final = 32 << 20
"""More than any line has on its way: 3 Gbit/s over 85 ms."""
DOWN_DETACHED_BYTES: Final = 1 << 20
"""The same while nobody is attached; more than was there already is not read."""
UP_RING_BYTES: Final = 256 << 10
"""Unacknowledged towards the desktop; then a client takes no more input."""
ACK_DOWN_BYTES: Final = 65536
"""A client acknowledges after so many bytes at the latest."""
ACK_UP_BYTES: Final = 4096
"""A server acknowledges after so many bytes at the latest."""
ACK_S: Final = 0.05
"""Either acknowledges so long after a message at the latest."""

BEAT_S: Final = 20.0
"""Without anything sent, before the server says where the stream stands; proxies give up after 60 s."""
SILENT_S: Final = 25.0
"""Without a byte from the server, until a client gives a socket up."""
PROBE_S: Final = 3.0
"""For the answer to a probe after a wake-up, else the socket is given up."""
DIAL_S: Final = 15.0
"""From a dial to the answer, unless the server says `wait`; then the socket is given up."""
JITTER_MS: Final = (0, 250)
"""The first try after a loss lies uniformly in this range."""
BACKOFF_S: Final = 0.5
"""The pause before the second try; doubled for each further one, with full jitter."""
BACKOFF_S_MAX: Final = 15.0
RETRY_MS_MAX: Final = 60_000
"""The longest pause that a server can ask for."""
REDIRECTS_MAX: Final = 3
"""In a row; a further one is an ordinary pause."""
RELEASE_S: Final = 2.0
"""After a drop, until every key and button that is down is let go of."""
