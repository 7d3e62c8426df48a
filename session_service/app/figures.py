"""The gateway's plain counters as Prometheus series, read when somebody asks. Nothing decides by them."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from session_service.gateway.shards import Shards
from session_service.gateway.stats import FIRST_FRAME_BOUNDS_S, GatewayStats


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
        yield _first_frames(stats.first_frames, stats.first_frame_sum_s)


def _streams(stats: GatewayStats) -> Iterator[Metric]:
    """Yield what there is to say of resumable streams."""
    resumed = CounterMetricFamily(
        "session_service_streams_resumed", "Accepted resumes, by outcome.", labels=("outcome",)
    )
    for outcome, number in stats.resumes.items():
        resumed.add_metric((outcome,), number)
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


def _first_frames(counts: list[int], total_s: float) -> Metric:
    running, buckets = 0, []
    for bound, count in zip((*map(str, FIRST_FRAME_BOUNDS_S), "+Inf"), counts, strict=True):
        running += count
        buckets.append((bound, running))
    family = HistogramMetricFamily(
        "session_service_first_frame_seconds", "Time from a client's first request to its first picture."
    )
    family.add_metric((), buckets, total_s)
    return family
