"""Sessions in every state as the API tells them, for looks at pages that real desktops reach only by faults.

Not a service: pages, assets and sign-in come from the real one; only what it says of sessions is replaced in
the browser, so that each state can be looked at, held to its words and measured.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from playwright.async_api import Page, Route

SESSION_ID: Final = "01J9Z3M4N5P6Q7R8S9T0V1W2X3"
WORKSPACE_ID: Final = "01J9Z3M4N5P6Q7R8S9T0V1W2X4"
LONG_NAME: Final = "a-workspace-with-a-name-as-long-as-names-may-be-in-this-service"
GIB: Final = 1_073_741_824


def ago(seconds: float) -> str:
    """Return an instant of the past as the API writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def session(user_id: str, **changes: Any) -> dict[str, Any]:
    """Return an active session with changes."""
    base: dict[str, Any] = {
        "id": SESSION_ID, "workspace": {"id": WORKSPACE_ID, "name": "Home"},
        "user": {"id": user_id, "name": "ada"}, "state": "active", "outcome": None, "generation": 7,
        "created_at": ago(4000), "closed_at": None, "hold_s": 1800.0, "hold_remaining_s": None,
        "hold_deadline": None, "hold_counting": True, "loss_cause": None, "lost_at": None,
        "saved_as_of": ago(8), "saved_seq": 52, "pending_files": 3, "pending_bytes": 1_200_000,
        "pending_looked_at": ago(2), "links": 1, "link_since": ago(900), "device_label": "Laptop, Firefox",
        "close_step": None, "close_cause": None, "progress": None, "step_error": "", "step_since": None,
        "step_attempts": 0, "start_from_seq": 40, "chosen_seq": None, "refused_windows": [],
        "accepted_paths": [], "detail": "", "network": "isolated", "limits_missing": [],
        "node_id": "01J9Z3M4N5P6Q7R8S9T0V1W2X9", "address": "192.0.2.17",
    }  # fmt: skip
    return base | changes


def held(left_s: float) -> dict[str, Any]:
    """Return what makes a session held with so much left."""
    return {
        "state": "held",
        "links": 0,
        "hold_remaining_s": left_s,
        "hold_deadline": ago(-left_s),
        "loss_cause": "network_changed",
        "lost_at": ago(1800 - left_s),
        "pending_files": 0,
        "pending_bytes": 0,
    }


CLOSING: Final[dict[str, Any]] = {
    "state": "closing",
    "links": 0,
    "close_step": "access_ended",
    "close_cause": "hold",
}
STORE_DOWN: Final[dict[str, Any]] = {
    **CLOSING,
    "step_error": "The object store does not answer; desktops are kept until it does.",
    "step_attempts": 14,
    "pending_files": 12,
    "pending_bytes": 38_000_000,
}


def states(user_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the lists of sessions of each look at my desktop and at the screen, by a short name."""
    stuck = {"state": "starting", "links": 0, "step_error": "No answer from the store.", "step_attempts": 3}
    progress = {"stage": "restore", "done": 212, "total": 1048}
    failed = {
        "state": "closed", "outcome": "start_failed", "closed_at": ago(20), "links": 0,
        "detail": "Xvnc: could not bind to /run/desktop/rfb: No space left on device\n" * 4,
    }  # fmt: skip
    return {
        "none": [],
        "starting": [session(user_id, state="starting", links=0, progress=progress)],
        "trouble": [session(user_id, **stuck)],
        "active": [session(user_id)],
        "held": [session(user_id, **held(1721))],
        "ending": [session(user_id, **held(262))],
        "week": [session(user_id, **{**held(500_000.0), "hold_s": 604_800.0, "lost_at": ago(104_800)})],
        "closing": [session(user_id, **CLOSING, progress={"stage": "verify", "done": 212, "total": 1048})],
        "storage-down": [session(user_id, **STORE_DOWN, step_since=ago(340))],
        "failed": [session(user_id, **failed)],
        "died": [session(user_id, state="closed", outcome="saved_after_death", closed_at=ago(70), links=0)],
        "closed": [
            session(user_id, state="closed", outcome="saved", closed_at=ago(60), lost_at=ago(1860), links=0)
        ],
    }


def receipt(user_id: str) -> dict[str, Any]:
    """Return a receipt of a close after the hold."""
    now = datetime.now(UTC).timestamp() * 1000
    point = {"hash": "9f2c" * 16, "entries": 1048, "bytes": 3 * GIB, "complete": True, "skipped": 1}
    return {
        "session_id": SESSION_ID, "workspace_id": WORKSPACE_ID, "user_id": user_id, "written_at": ago(60),
        "body": {
            "version": 1, "session_id": SESSION_ID, "workspace_id": WORKSPACE_ID, "user_id": user_id,
            "fence": 3, "cause": "hold", "outcome": "saved", "ended_by": None,
            "created_at_ms": now - 9e6, "loss_cause": "network_changed", "lost_at_ms": now - 1.86e6,
            "asked_at_ms": now - 62_000, "receipt_at_ms": now - 60_000, "freeze_method": "cgroup2",
            "hook": "none", "refused_windows": ["Editor"], "accepted_paths": [],
            "c1": {"seq": 51, "saved_as_of_ms": now - 63_000, "unreadable": [], **point},
            "c2": {"seq": 52, "saved_as_of_ms": now - 61_000, "unreadable": [], **point},
        },
    }  # fmt: skip


def fleet(count: int) -> list[dict[str, Any]]:
    """Return a fleet: one that cannot close, some at risk, some held, most active."""
    made = []
    for n in range(count):
        names = {"id": f"01J9Z3M4N5P6Q7R8S9T0V1{n:04d}", "user": {"id": "u", "name": f"s{n:04d}"}}
        calm = {
            "pending_files": 0,
            "pending_bytes": 0,
            "saved_as_of": ago(4 + n % 9),
            "created_at": ago(60 * n),
        }
        if n == 3:
            made.append(
                session("u", **{**names, **STORE_DOWN, "saved_as_of": ago(400), "step_since": ago(340)})
            )
        elif n % 40 == 5:
            made.append(session("u", **{**names, "saved_as_of": ago(90), "pending_bytes": 2_100_000_000}))
        elif n % 7 == 2:
            made.append(session("u", **{**names, **calm, **held(20 + n * 5)}))
        else:
            made.append(session("u", **{**names, **calm}))
    return made


ALARM: Final[dict[str, Any]] = {
    "id": "a", "kind": "storage", "since": ago(340), "detail": "The object store has not answered.",
    "action": "Bring the object store back; everything waits and goes on by itself.",
    "session_id": None, "facts": {},
}  # fmt: skip

_STREAM = """
window.EventSource = class extends EventTarget {
  constructor() {
    super();
    fetch("/told").then(answer => answer.text()).then(text => this.tell("snapshot", text));
    setInterval(() => this.tell("beat", "{}"), 1000);
  }
  tell(kind, data) { this.dispatchEvent(new MessageEvent(kind, { data })); }
  close() {}
};
"""


@dataclass(slots=True, kw_only=True)
class Told:
    """What a page hears from its next load on; may be changed between loads."""

    sessions: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)

    def snapshot(self) -> dict[str, Any]:
        """Return what the stream begins with."""
        still_open = [each for each in self.sessions if each["state"] != "closed"]
        return {"time": ago(0), "sessions": still_open, "alarms": self.alarms}


async def tell(page: Page, told: Told, *, user_id: str) -> None:
    """Make the page hear what `told` holds, and nothing else of sessions."""
    await page.add_init_script(_STREAM)

    async def stream(route: Route) -> None:
        await route.fulfill(json=told.snapshot())

    async def one(route: Route) -> None:
        if "/tickets" in route.request.url:
            await route.fulfill(status=503, json={"code": "part_unavailable", "retryable": True, "facts": {}})
        else:
            await route.fulfill(json=told.sessions[0])

    async def listed(route: Route) -> None:
        if route.request.method == "POST":
            problem = {"code": "older_only", "status": 409, "retryable": False, "facts": {}, "detail": ""}
            await route.fulfill(status=409, json=problem)
        else:
            await route.fulfill(json={"items": told.sessions[:1], "next_cursor": None})

    async def workspaces(route: Route) -> None:
        home = {"id": WORKSPACE_ID, "name": "Home", "user_id": user_id, "created_at": ago(9e6)}
        home |= {"open_session_id": None, "saved_as_of": ago(200), "saved_seq": 52}
        other = {**home, "id": WORKSPACE_ID[:-1] + "5", "name": LONG_NAME}
        await route.fulfill(json={"items": [home, other], "next_cursor": None})

    async def checkpoints(route: Route) -> None:
        point = {
            "hash": "9f",
            "session_id": SESSION_ID,
            "reason": "periodic",
            "frozen": False,
            "final": False,
        }
        point |= {"entries": 1048, "bytes": 3 * GIB, "new_stored_bytes": 9, "skipped": 0, "fuzzy": 0}
        items = [
            {**point, "seq": 52, "saved_as_of": ago(200), "complete": False, "unreadable": 2, "final": True,
             "bad_paths": [{"path": "figures/fig-3-2.pdf", "grade": "unreadable", "error": "EIO"}]},
            *({**point, "seq": 51 - n, "saved_as_of": ago(410 + 100 * n), "complete": True, "unreadable": 0,
               "bad_paths": []} for n in range(6)),
        ]  # fmt: skip
        await route.fulfill(json={"items": items, "next_cursor": None})

    async def conflicts(route: Route) -> None:
        point = {"hash": "9f", "session_id": SESSION_ID, "reason": "conflict", "frozen": True, "final": False}
        point |= {"entries": 1052, "bytes": 3 * GIB, "new_stored_bytes": 9, "skipped": 0, "fuzzy": 0}
        beside = {**point, "seq": 45, "saved_as_of": ago(90_000), "complete": True, "unreadable": 0}
        await route.fulfill(json={"items": [{**beside, "bad_paths": []}], "next_cursor": None})

    async def files(route: Route) -> None:
        row = {"size": 41_000, "mode": "0644", "modified_at": ago(300), "grade": "", "link_target": ""}
        names = ["chapter-3.md", "levelling.csv", "x" * 200 + ".tar.gz", "\u202egnp.exe", "a\\x0ab"]
        items = [{**row, "name": "figures", "path": "figures", "kind": "folder"}]
        items += [{**row, "name": name, "path": name, "kind": "file"} for name in names]
        await route.fulfill(json={"items": items, "next_cursor": None})

    async def receipts(route: Route) -> None:
        body = receipt(user_id)
        single = SESSION_ID in route.request.url
        await route.fulfill(json=body if single else {"items": [body, body], "next_cursor": None})

    await page.route("**/told", stream)
    await page.route("**/api/v1/receipts**", receipts)
    await page.route("**/api/v1/receipts/*", receipts)
    await page.route("**/api/v1/workspaces?*", workspaces)
    await page.route("**/api/v1/workspaces/*/checkpoints?*", checkpoints)
    await page.route("**/api/v1/workspaces/*/checkpoints/*/files?*", files)
    await page.route("**/api/v1/workspaces/*/conflicts", conflicts)
    await page.route("**/api/v1/sessions/*", one)
    await page.route("**/api/v1/sessions/*/tickets", one)
    await page.route("**/api/v1/sessions*", listed)
