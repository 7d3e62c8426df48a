"""Every limit of the gateway, with its unit, its reason, and what happens when it is reached.

Not settings, but for `ring_bytes`: an operator changes none of the others. They are one value so that a test
can shorten a minute to a moment.

Source: gateway.md sections 7, 8, 9.1 and 9.4; docs/design/0002-wire.md.
"""

from dataclasses import dataclass, field

from session_service.core.continuity.limits import DOWN_RING_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """Time, memory and number, per connection and per process."""

    head_bytes_max: int = 8192
    """A request head; more is answered 431."""
    head_s: float = 15.0
    """For a whole request head; a slower sender is reset. Long enough for a storm of reconnects behind
    TLS.
    """
    first_message_s: float = 15.0
    """From the 101 to a whole first message; else 4408."""
    early_bytes_max: int = 8192
    """What a stock client may send before its 101; more is a reset."""
    text_bytes_max: int = 4096
    """One control message; more is 1009."""
    message_bytes_max: int = 65536
    """One binary message of a client over all its fragments; more is 4413."""
    frame_s: float = 120.0
    """From the first to the last byte of one frame; a slower sender is reset: it only holds memory."""
    waiting_sockets_max: int = 20_000
    """Sockets without a first message; at the limit the oldest is reset, never the newcomer refused."""
    handshakes_max: int = 5_000
    """Of those, the ones in the middle of their TLS handshake; at the limit the oldest of them is reset.
    Fewer, because each takes 54 KiB (253 on a loop without uvloop); a storm of as many clients comes in.
    """
    page_head_bytes_max: int = 32 * 1024
    """A request head that is no link's, with the cookies of others on the same host; more is answered 431."""
    page_sockets_max: int = 4096
    """Connections that the HTTP side has; more are answered 503, so that links find descriptors left."""
    page_timeout_s: float = 90.0
    """A reader of the HTTP side may take nothing for so long (TCP_USER_TIMEOUT); downloads pause for 60 s."""
    links_max: int = 10_000
    """Open links of this process; more are answered 503. Two descriptors and about 6 KiB each."""
    legs_max: int = 40_000
    """Desktops' sockets of all gateway processes together, of each of which the service keeps a descriptor;
    beyond it none is handed on, and the client is told to come back.
    """
    down_bytes_max: int = 256 * 1024
    """Waiting for one client; beyond it the desktop is not read. Less starves a fast client."""
    up_bytes_max: int = 256 * 1024
    """Waiting for one desktop; beyond it the client is not read."""
    ring_bytes: int = DOWN_RING_BYTES
    """Unacknowledged by one client of a resumable stream; beyond it the desktop is not read (the setting
    `gateway.ring_mib`).
    """
    unsent_bytes_max: int = 128 * 1024
    """Unsent in the kernel per client, so that pings and echoes do not wait behind megabytes."""
    controls_max: int = 200
    """Pings and pongs in `controls_s`; more is 4429."""
    controls_s: float = 10.0
    ping_s: float = 10.0
    """Without a byte from the client, before we ask."""
    silent_s: float = 25.0
    """Without a byte from the client, until it is given up: a reset, cause `silent`."""
    slow_s: float = 120.0
    """The same for a client that still takes bytes of ours: its answer waits behind them."""
    stall_s: float = 5.0
    """Our own loop stood still for longer: nobody is judged by that time."""
    user_timeout_s: float = 20.0
    """Sent and not acknowledged (TCP_USER_TIMEOUT); without it Linux goes on for a quarter of an hour."""
    keepalive_s: tuple[int, int, int] = (20, 5, 4)
    """Idle seconds, interval in seconds, and probes of TCP keepalive; for links whose reading is paused."""
    close_s: float = 1.0
    """From our close frame to a reset."""
    leg_close_s: float = 5.0
    """For what still has to reach a desktop (key releases) when its link is gone."""
    leg_connect_s: float = 5.0
    """For the desktop to take a connection; it is a unix socket, so anything above milliseconds is
    trouble.
    """
    leg_handed_s: float = 8.0
    """For a desktop's socket to come from the service: its connecting, an older process that stands still for
    a second, and the way.
    """
    poll_s: float = 0.2
    """Between looks at a session that is starting."""
    wait_s: float = 10.0
    """At most this long between two `wait` messages: they keep proxies from closing the socket."""
    release_s: float = 2.0
    """After a resumable link is lost, until keys and buttons that are down are let go of."""
    detached_s: float = 60.0
    """Beyond its hold, until a stream that nobody came back to is given up; a resume is a resync then."""
    rings_share: float = 0.25
    """Of the machine's memory, for what all streams together could replay."""
    rings_bytes_max: int = 0
    """The same in bytes; 0 = by the share. Beyond it the oldest detached stream gives up its replay."""
    ack_quiet_s: float = 30.0
    """Without an acknowledgement: an attached client may lose its replay, too. Its link goes on."""
    restart_jitter_ms: tuple[int, int] = (0, 3000)
    """Told to clients when the service stops, so that they do not all come back in one moment."""
    backlog: int = 4096
    """Connections that the kernel keeps for us; 128 lost clients for 90 s in a storm of 5,000."""

    look_s: float = field(init=False)
    """Between two looks at a link for which something is due that cannot be done yet."""
    tick_s: float = field(init=False)
    """Between two turns of the ticker: a silent peer is found at most two of them too early (one to look and
    one to judge), never too late.
    """
    calm_s: float = field(init=False)
    """After a byte of an open link: nothing about it can be due before."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "look_s", self.ping_s / 10)
        object.__setattr__(self, "tick_s", self.ping_s / 200)
        object.__setattr__(self, "calm_s", min(self.ping_s, self.silent_s - 2 * self.tick_s))
