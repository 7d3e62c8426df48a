"""The gateway's plain counters as Prometheus series, read when somebody asks. Nothing decides by them."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from session_service.control.replication import Replication
from session_service.control.upkeep import OUTCOMES, REASONS, UpkeepCount
from session_service.gateway.shards import Shards
from session_service.gateway.stats import (
    FIRST_FRAME_BOUNDS_S,
    REPLAY_BOUNDS_S,
    STALL_BOUNDS_S,
    GatewayStats,
)

STATES: Final = ("in_step", "behind", "away", "refused", "diverged", "damaged", "erased", "none")
"""Of a workspace's second copy."""


class GatewayFigures(Collector):
    """Collects from all gateways."""

    def __init__(self, gateway: Shards) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Yield every series as it is now."""
        stats = self._gateway.stats()
        yield CounterMetricFamily(
            "session_service_links_opened", "Links that reached a desktop.", value=stats.links_opened
        )
        ended = CounterMetricFamily(
            "session_service_links_ended", "Links that ended, by cause.", labels=("cause",)
        )
        for cause, number in stats.links_ended.items():
            ended.add_metric((cause,), number)
        yield ended
        refused = CounterMetricFamily(
            "session_service_links_refused", "Refusals, by status or close code.", labels=("code",)
        )
        for code, number in stats.refusals.items():
            refused.add_metric((str(code),), number)
        yield refused
        carried = CounterMetricFamily(
            "session_service_links_carried_bytes", "Payload carried, by direction.", labels=("direction",)
        )
        carried.add_metric(("down",), stats.bytes_down)
        carried.add_metric(("up",), stats.bytes_up)
        yield carried
        yield GaugeMetricFamily("session_service_links_open", "Links that are open.", value=stats.links_open)
        yield GaugeMetricFamily(
            "session_service_loop_stall_longest_seconds",
            "The longest time the loop stood still since the start.",
            value=stats.loop_stall_longest_s,
        )
        yield from _streams(stats)
        yield _histogram(
            "session_service_first_frame_seconds",
            "Time from a client's first request to its first picture.",
            (FIRST_FRAME_BOUNDS_S, stats.first_frames, stats.first_frame_sum_s),
        )
        yield _histogram(
            "session_service_back_frame_seconds",
            "Time from a proof to the first picture of a new stream (resync).",
            (FIRST_FRAME_BOUNDS_S, stats.back_frames, stats.back_frame_sum_s),
        )
        yield _histogram(
            "session_service_replay_seconds",
            "Time from a proof to its answer and the first byte of its replay.",
            (REPLAY_BOUNDS_S, stats.replays, stats.replay_sum_s),
        )
        yield _histogram(
            "session_service_loop_stall_seconds",
            "How late the gateway's loop was, looked at twenty times a second.",
            (STALL_BOUNDS_S, stats.loop_stalls, stats.loop_stall_sum_s),
        )


def _streams(stats: GatewayStats) -> Iterator[Metric]:
    """Yield what there is to say of resumable streams."""
    resumed = CounterMetricFamily(
        "session_service_streams_resumed",
        "Attempts to resume, by outcome and by the cause of the loss that they ended.",
        labels=("outcome", "cause"),
    )
    for key, number in stats.resumes.items():
        resumed.add_metric(key.split(), number)
    yield resumed
    yield CounterMetricFamily(
        "session_service_streams_forgotten",
        "Streams that gave up their replay because all together kept too much.",
        value=stats.rings_dropped,
    )
    yield GaugeMetricFamily(
        "session_service_streams_detached", "Streams that no link carries.", value=stats.streams_detached
    )
    yield GaugeMetricFamily(
        "session_service_streams_unacknowledged_bytes",
        "Kept for a replay, in all streams together.",
        value=stats.unacknowledged_bytes,
    )


def _histogram(name: str, words: str, counted: tuple[tuple[float, ...], list[int], float]) -> Metric:
    bounds, counts, total_s = counted
    running, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        running += count
        buckets.append((bound, running))
    family = HistogramMetricFamily(name, words)
    family.add_metric((), buckets, total_s)
    return family


class SecondStoreFigures(Collector):
    """How far the second store is, read from memory: nothing is asked of it."""

    def __init__(self, replication: Replication) -> None:
        self._replication = replication

    def collect(self) -> Iterator[Metric]:
        """Yield every series as it is now."""
        copies = self._replication.copies()
        looks = [copy.look for copy in copies if copy.look is not None]
        yield GaugeMetricFamily(
            "session_service_second_store_behind_seconds",
            "Age of the oldest checkpoint that is not on the second store.",
            value=self._replication.lag_ms() / 1000,
        )
        yield GaugeMetricFamily(
            "session_service_second_store_behind_entries",
            "Log entries that are not on the second store.",
            value=sum(look.behind_entries for look in looks),
        )
        yield GaugeMetricFamily(
            "session_service_second_store_behind_bytes",
            "Bytes of objects that are not on the second store, as far as the logs tell.",
            value=sum(look.behind_bytes for look in looks),
        )
        family = GaugeMetricFamily(
            "session_service_second_store_workspaces", "Workspaces, by state of the copy.", labels=("state",)
        )
        for state in STATES:
            family.add_metric((state,), sum(look.state == state for look in looks))
        yield family


class UpkeepFigures(Collector):
    """What the hourly upkeep came to."""

    def __init__(self, count: UpkeepCount) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """Yield every series as it is now."""
        runs = CounterMetricFamily(
            "session_service_upkeep_runs", "Runs over one workspace, by outcome.", labels=("outcome",)
        )
        for outcome in OUTCOMES:
            runs.add_metric((outcome,), self._count.runs[outcome])
        yield runs
        refused = CounterMetricFamily(
            "session_service_upkeep_refused", "Runs that collected nothing, by reason.", labels=("reason",)
        )
        for reason in sorted({*REASONS.values(), "other"}):
            refused.add_metric((reason,), self._count.refusals[reason])
        yield refused
        yield CounterMetricFamily(
            "session_service_upkeep_freed_bytes",
            "Bytes of objects that were deleted.",
            value=self._count.freed_bytes,
        )
        yield CounterMetricFamily(
            "session_service_upkeep_forgotten_checkpoints",
            "Checkpoints that policy let go.",
            value=self._count.forgotten,
        )


class StoreLineFigures(Collector):
    """The limits of the line to the store, for all workers together."""

    def __init__(self, *, up: float | None, down: float | None) -> None:
        self._limits = {"up": up, "down": down}

    def collect(self) -> Iterator[Metric]:
        """Yield every series as it is now."""
        family = GaugeMetricFamily(
            "session_service_store_line_bytes_per_second",
            "What workers may send to and fetch from the store, by direction; 0: no limit.",
            labels=("direction",),
        )
        for direction, limit in self._limits.items():
            family.add_metric((direction,), limit or 0)
        yield family
