"""The figures of the HTTP side and of sessions, for Prometheus.

Not read by us: nothing decides by them. Every series exists before its first failure; labels come from
closed lists.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from session_service.core.pace import Rule
from session_service.core.records import OPEN_STATES, State
from session_service.core.views import SessionView
from session_service.ports.checkpoints import TrafficLook, WatchLook

PAGE: Final = "page"
NONE: Final = "none"
"""Names of what is not in the table: pages with their files, and addresses that do not exist."""
_SECONDS: Final = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0)
RUNNING: Final = frozenset({State.ACTIVE, State.HELD})
_NOTICED: Final = ("fanotify", "inotify", "scan")
_STATUS_CLASSES: Final = ("2xx", "3xx", "4xx", "5xx")


_ASKED: Final = ("put", "get", "head", "list", "delete", "versions")


class StoreTraffic(Collector):
    """What each worker asked of the store. A worker that was started again counts from nothing."""

    def __init__(self) -> None:
        self.looks: Sequence[TrafficLook] = ()

    def collect(self) -> Iterator[Metric]:
        """Yield every series as it was last told."""
        requests = CounterMetricFamily(
            "session_service_store_requests",
            "Requests to the main store, each try counted, by worker and kind.",
            labels=("worker", "kind"),
        )
        failures = CounterMetricFamily(
            "session_service_store_failures",
            "Requests to the main store without a useful answer, by worker.",
            labels=("worker",),
        )
        carried = CounterMetricFamily(
            "session_service_store_bytes",
            "Bodies sent to and fetched from the main store, by worker and direction.",
            labels=("worker", "direction"),
        )
        for look in self.looks:
            worker = str(look.worker)
            for kind in _ASKED:
                requests.add_metric((worker, kind), look.requests.get(kind, 0))
            failures.add_metric((worker,), look.failures)
            carried.add_metric((worker, "up"), look.sent_bytes)
            carried.add_metric((worker, "down"), look.fetched_bytes)
        yield from (requests, failures, carried)


class Figures:
    """The figures of the HTTP side and of sessions; every series exists before its first failure."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "session_service_requests_done",
            "Requests answered, by route and class of status.",
            ("route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "session_service_request_done_seconds",
            "Time from a request's head to the end of its answer; live streams are left out.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._sessions = Gauge(
            "session_service_sessions", "Open sessions, by state.", ("state",), registry=registry
        )
        self._pending = Gauge(
            "session_service_sessions_pending_bytes",
            "Bytes of files changed since their newest checkpoint, where known.",
            registry=registry,
        )
        self._intervals = Gauge(
            "session_service_checkpoint_interval_seconds",
            "The longest pause between periodic saves in force, by the rule that decided it.",
            ("rule",),
            registry=registry,
        )
        self._saved_age = Gauge(
            "session_service_saved_age_seconds",
            "Age of the oldest saved-as-of of a running desktop.",
            registry=registry,
        )
        self._late = Gauge(
            "session_service_sessions_saved_late",
            "Running desktops whose saved-as-of is older than what was promised.",
            registry=registry,
        )
        for rule in Rule:
            self._intervals.labels(rule.value).set(0)
        self._alarms = Gauge("session_service_alarms", "Open alarms.", registry=registry)
        self._streams = Gauge("session_service_event_streams", "Live event streams.", registry=registry)
        self._homes = Gauge(
            "session_service_homes",
            "Homes that the workers save, by how they notice changes there.",
            ("noticed",),
            registry=registry,
        )
        self._scans = Gauge(
            "session_service_home_scans",
            "Scans since the workers started: of changed folders only, or of everything.",
            ("kind",),
            registry=registry,
        )
        self._silent = Gauge(
            "session_service_home_folders_silent",
            "Folders in which a full scan found a change that no event had told of.",
            registry=registry,
        )
        self._traffic = StoreTraffic()
        registry.register(self._traffic)
        for way in _NOTICED:
            self._homes.labels(way).set(0)
        for kind in ("notified", "full"):
            self._scans.labels(kind).set(0)
        for state in OPEN_STATES:
            self._sessions.labels(state.value).set(0)

    def watched(self, looks: Sequence[WatchLook]) -> None:
        """Set how changes in homes are noticed."""
        homes = dict.fromkeys(_NOTICED, 0)
        for look in looks:
            if look.mode in homes:
                homes[look.mode] += look.homes
            homes["scan"] += look.homes_unwatched + (look.homes if look.mode not in homes else 0)
        for way, count in homes.items():
            self._homes.labels(way).set(count)
        notified = sum(look.scans.get("notified", 0) for look in looks)
        self._scans.labels("notified").set(notified)
        self._scans.labels("full").set(sum(sum(look.scans.values()) for look in looks) - notified)
        self._silent.set(sum(look.silent for look in looks))

    def asked_of_store(self, looks: Sequence[TrafficLook]) -> None:
        """Take what the workers asked of the store."""
        self._traffic.looks = looks

    def know(self, routes: Iterable[str]) -> None:
        """Make the series of every route."""
        for name in (*routes, PAGE, NONE):
            for status in _STATUS_CLASSES:
                self._requests.labels(name, status)

    def done(self, route: str, status: int, seconds: float, *, stream: bool) -> None:
        """Count one answered request."""
        self._requests.labels(route, f"{status // 100}xx").inc()
        if not stream:
            self._seconds.observe(seconds)

    def seen(self, views: Sequence[SessionView], *, alarms: int, streams: int, now_ms: int) -> None:
        """Set what is only known when asked."""
        for state in OPEN_STATES:
            self._sessions.labels(state.value).set(sum(view.session.state is state for view in views))
        self._pending.set(sum(view.pending_bytes or 0 for view in views))
        for rule in Rule:
            paused = [view.save_interval_s or 0.0 for view in views if view.save_rule == rule.value]
            self._intervals.labels(rule.value).set(max(paused, default=0.0))
        running = [view for view in views if view.session.state in RUNNING and view.saved_as_of_ms]
        ages = [max(0.0, (now_ms - (view.saved_as_of_ms or 0)) / 1000) for view in running]
        self._saved_age.set(max(ages, default=0.0))
        self._late.set(
            sum(
                view.save_promise_s is not None and age > view.save_promise_s
                for view, age in zip(running, ages, strict=True)
            )
        )
        self._alarms.set(alarms)
        self._streams.set(streams)
