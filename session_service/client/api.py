"""The REST API as typed calls, for the CLI, the demo and programs.

Not a mirror of every route: what people script. Lists are followed to their end. Every act carries a fresh
Idempotency-Key, so that a caller who repeats one with `key` gets the same answer.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from session_service.client import models
from session_service.client.transport import Query, Transport

API: Final = "/api/v1"
PAGE_ITEMS: Final = 200
FOLDER_PAGE_ENTRIES: Final = 1_000
"""... of a folder of a checkpoint, which may have a million."""
VERIFY_S: Final = 3700.0
"""A full verify reads every byte; the service itself gives up after an hour."""
UPLOAD_S: Final = 3600.0
"""A file on its way up; the service drops one that stands still."""
Item = TypeVar("Item")
OnProgress = Callable[[models.Progress], None]


def ignore_progress(progress: models.Progress) -> None:
    """Take no notice of it."""


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    items: list[msgspec.Raw]
    next_cursor: str | None = None


class _Lines(msgspec.Struct, frozen=True, kw_only=True):
    items: list[models.Explained]


class Api:
    """The calls. Errors are those of `base.errors`, by code; see `Transport.ask`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def base_url(self) -> str:
        """The address that requests go to."""
        return self._transport.base_url

    # -- people ---------------------------------------------------------------------------------------

    async def me(self) -> models.Me:
        """Return who we are for the service."""
        return await self._transport.ask("GET", f"{API}/me", models.Me)

    async def status(self) -> models.Status:
        """Return how the service is."""
        return await self._transport.ask("GET", f"{API}/status", models.Status)

    async def users(self) -> list[models.User]:
        """Return all accounts."""
        return await self._all(f"{API}/users", models.User)

    async def create_user(self, *, name: str, password: str, role: str = "user") -> models.User:
        """Make an account. Raises NameTaken, BadInput."""
        body = {"name": name, "password": password, "role": role}
        return await self._transport.ask("POST", f"{API}/users", models.User, body=body)

    async def change_user(
        self,
        user_id: str,
        *,
        role: str | None = None,
        disabled: bool | None = None,
        password: str | None = None,
    ) -> models.User:
        """Change an account; what is None stays."""
        given = {"role": role, "disabled": disabled, "password": password}
        body = {name: value for name, value in given.items() if value is not None}
        return await self._transport.ask("PATCH", f"{API}/users/{user_id}", models.User, body=body)

    async def tokens(self) -> list[models.Token]:
        """Return tokens: one's own, or all for administrators."""
        return await self._all(f"{API}/tokens", models.Token)

    async def create_token(
        self,
        *,
        name: str,
        scopes: Sequence[str],
        expires_in_s: float | None = None,
        user_id: str | None = None,
    ) -> models.NewToken:
        """Make a token; `user_id` (for another account) works over the unix socket only."""
        body: dict[str, Any] = {"name": name, "scopes": list(scopes)}
        if expires_in_s is not None:
            body["expires_in_s"] = expires_in_s
        if user_id is not None:
            body["user_id"] = user_id
        return await self._transport.ask("POST", f"{API}/tokens", models.NewToken, body=body)

    async def revoke_token(self, token_id: str) -> None:
        """Revoke a token; revoked already is done."""
        await self._transport.ask("DELETE", f"{API}/tokens/{token_id}", type(None))

    # -- sessions -------------------------------------------------------------------------------------

    async def sessions(
        self, *, state: str | None = None, open_only: bool = False, mine: bool = False
    ) -> list[models.Session]:
        """Return sessions, newest first."""
        query: Query = {"state": state, "open": True if open_only else None, "mine": mine or None}
        return await self._all(f"{API}/sessions", models.Session, query)

    async def session(self, session_id: str) -> models.Session:
        """Return one session. Raises NotFound."""
        return await self._transport.ask("GET", f"{API}/sessions/{session_id}", models.Session)

    async def start(
        self,
        *,
        workspace_id: str | None = None,
        template: str | None = None,
        geometry: tuple[int, int] | None = None,
        from_seq: int | None = None,
        key: str | None = None,
    ) -> models.Session:
        """Start a desktop, or return the open session of the workspace."""
        given = {
            "workspace_id": workspace_id,
            "template": template,
            "geometry": geometry,
            "from_seq": from_seq,
        }
        body = {name: value for name, value in given.items() if value is not None}
        return await self._act("", "", body, models.Session, key=key)

    async def disconnect(self, session_id: str, *, reason: str = "") -> models.Session:
        """Cut the links of a session; it is held."""
        return await self._act(session_id, "disconnect", {"reason": reason}, models.Session)

    async def save(self, session_id: str, *, reason: str = "") -> models.Checkpoint:
        """Take a checkpoint now; returns when it was read back."""
        return await self._act(session_id, "save", {"reason": reason}, models.Checkpoint)

    async def end(self, session_id: str, *, reason: str = "") -> models.Session:
        """Save everything, then end the desktop."""
        return await self._act(session_id, "end", {"reason": reason}, models.Session)

    async def extend(self, session_id: str, *, seconds: float, reason: str = "") -> models.Session:
        """Change what remains of a hold."""
        body = {"seconds": seconds, "reason": reason}
        return await self._act(session_id, "extend", body, models.Session)

    async def reuse(self, session_id: str) -> models.Session:
        """Get the kept desktop of a closing session back, as a new session."""
        return await self._act(session_id, "reuse", {}, models.Session)

    async def accept_paths(self, session_id: str, *, paths: Sequence[str], reason: str) -> models.Session:
        """Accept by name that files cannot be saved."""
        body = {"paths": list(paths), "reason": reason}
        return await self._act(session_id, "accept", body, models.Session)

    async def ticket(
        self, session_id: str, *, mode: str = "control", device_label: str = ""
    ) -> models.Ticket:
        """Get the one-use right to open a link."""
        body = {"mode": mode, "device_label": device_label}
        return await self._act(session_id, "tickets", body, models.Ticket)

    async def explanation(self, session_id: str) -> list[models.Explained]:
        """Return why a session is as it is, oldest first."""
        lines = await self._transport.ask("GET", f"{API}/sessions/{session_id}/explanation", _Lines)
        return lines.items

    async def upload(self, session_id: str, *, name: str, source: Path) -> models.Upload:
        """Put a file into the desktop's home."""
        with source.open("rb") as file:
            async with self._transport.opened(
                "POST",
                f"{API}/sessions/{session_id}/uploads",
                data=file,
                query={"name": name},
                headers={"Content-Type": "application/octet-stream"},
                limit_s=UPLOAD_S,
            ) as answer:
                return msgspec.json.decode(await answer.read(), type=models.Upload)

    # -- files and history ----------------------------------------------------------------------------

    async def workspaces(self) -> list[models.Workspace]:
        """Return one's own workspaces."""
        return await self._all(f"{API}/workspaces", models.Workspace)

    async def create_workspace(self, name: str) -> models.Workspace:
        """Make a further home."""
        return await self._transport.ask("POST", f"{API}/workspaces", models.Workspace, body={"name": name})

    async def checkpoints(self, workspace_id: str) -> list[models.Checkpoint]:
        """Return the restorable points of a workspace, newest first."""
        return await self._all(f"{API}/workspaces/{workspace_id}/checkpoints", models.Checkpoint)

    async def files(self, workspace_id: str, seq: int, *, path: str = "") -> list[models.File]:
        """Return a folder at the time of a checkpoint, all of it: `file_pages` holds less of a large one."""
        return [file async for page in self.file_pages(workspace_id, seq, path=path) for file in page]

    async def file_pages(
        self, workspace_id: str, seq: int, *, path: str = "", prefix: str = "", limit: int | None = None
    ) -> AsyncIterator[list[models.File]]:
        """Yield a folder at the time of a checkpoint page by page, ascending by the bytes of the names.

        Args:
            prefix: only names that begin so; capitals count.
            limit: entries at most; None for all.
        """
        place = f"{API}/workspaces/{workspace_id}/checkpoints/{seq}/files"
        left, cursor = limit, ""
        while left is None or left > 0:
            most = FOLDER_PAGE_ENTRIES if left is None else min(left, FOLDER_PAGE_ENTRIES)
            query: Query = {"path": path, "prefix": prefix, "limit": most, "cursor": cursor or None}
            page = await self._transport.ask("GET", place, _Page, query=query)
            found = [msgspec.json.decode(item, type=models.File) for item in page.items]
            yield found
            left = None if left is None else left - len(found)
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    def content(self, workspace_id: str, seq: int, *, path: str) -> AsyncIterator[bytes]:
        """Stream one file's bytes."""
        place = f"{API}/workspaces/{workspace_id}/checkpoints/{seq}/content"
        return self._transport.chunks(place, {"path": path})

    def archive(
        self, workspace_id: str, seq: int, *, path: str = "", kind: str = "zip", checked: bool = False
    ) -> AsyncIterator[bytes]:
        """Stream a folder, or the whole home, as a zip or a tar; what is damaged is listed in its last file.

        With `checked` the service reads large files twice, so that damage in one does not end the stream.
        """
        place = f"{API}/workspaces/{workspace_id}/checkpoints/{seq}/archive"
        return self._transport.chunks(
            place, {"path": path, "kind": kind} | ({"checked": "true"} if checked else {})
        )

    async def restore(self, session_id: str, *, seq: int, path: str = "") -> models.Restored:
        """Put files of a checkpoint into a new folder below `Restored` of a running desktop's home."""
        return await self._transport.ask(
            "POST",
            f"{API}/sessions/{session_id}/restores",
            models.Restored,
            body={"seq": seq, "path": path},
            limit_s=VERIFY_S,
        )

    async def verify(
        self, workspace_id: str, *, level: str, on_progress: OnProgress = ignore_progress
    ) -> models.Verification:
        """Check a workspace's repository; `full` reads every byte and takes its time."""
        path = f"{API}/workspaces/{workspace_id}/verify"
        return await self._transport.told(
            path, models.Verification, body={"level": level}, limit_s=VERIFY_S, on_progress=on_progress
        )

    async def forget(self, workspace_id: str, seqs: Sequence[int], *, reason: str = "") -> None:
        """Forget checkpoints. Raises Conflict where one must stay; then none was forgotten."""
        path = f"{API}/workspaces/{workspace_id}/checkpoints/forget"
        body = {"checkpoints": list(seqs), "reason": reason}
        await self._transport.ask("POST", path, type(None), body=body)

    async def keep(self, workspace_id: str, seq: int, *, pin: bool, reason: str = "") -> None:
        """Pin a checkpoint, or let the policy decide about it again."""
        path = f"{API}/workspaces/{workspace_id}/checkpoints/{seq}/keep"
        await self._transport.ask("POST", path, type(None), body={"pin": pin, "reason": reason})

    async def diff(self, workspace_id: str, seq: int, *, against: int) -> models.Difference:
        """Return what changed since an earlier checkpoint."""
        path = f"{API}/workspaces/{workspace_id}/checkpoints/{seq}/diff"
        return await self._transport.ask("GET", path, models.Difference, query={"against": str(against)})

    async def retention(self, workspace_id: str) -> models.Retention:
        """Return which checkpoints stay when old ones are forgotten."""
        path = f"{API}/workspaces/{workspace_id}/retention"
        return await self._transport.ask("GET", path, models.Retention)

    async def foreign_objects(self, workspace_id: str) -> models.Foreigners:
        """Return what lies behind a log's last entry, does not open, and stops everybody."""
        path = f"{API}/workspaces/{workspace_id}/log/foreign"
        return await self._transport.ask("GET", path, models.Foreigners)

    async def step_over(
        self, workspace_id: str, objects: list[tuple[int, str]], *, reason: str
    ) -> models.SteppedOver:
        """Let such objects not count, each confirmed by number and hash."""
        path = f"{API}/workspaces/{workspace_id}/log/step-over"
        body = {"objects": [{"seq": seq, "hash": hash_} for seq, hash_ in objects], "reason": reason}
        return await self._transport.ask("POST", path, models.SteppedOver, body=body)

    async def collect(
        self,
        workspace_id: str,
        *,
        forget: bool = True,
        renew_index: bool = False,
        on_progress: OnProgress = ignore_progress,
    ) -> models.Collected:
        """Forget by policy and free what nothing needs any more."""
        path = f"{API}/workspaces/{workspace_id}/collect"
        body = {"forget": forget, "renew_index": renew_index}
        return await self._transport.told(
            path, models.Collected, body=body, limit_s=VERIFY_S, on_progress=on_progress
        )

    async def keys(self, workspace_id: str) -> models.Keys:
        """Return under which key epoch a workspace is written."""
        return await self._transport.ask("GET", f"{API}/workspaces/{workspace_id}/keys", models.Keys)

    async def rotate_keys(self, workspace_id: str, *, leaked: bool = False) -> models.Keys:
        """Begin a new key epoch; after a leak no writer may use an older one."""
        path = f"{API}/workspaces/{workspace_id}/keys/rotate"
        return await self._transport.ask("POST", path, models.Keys, body={"leaked": leaked})

    async def erase(self, workspace_id: str, *, name: str, reason: str) -> models.Erased:
        """Erase what was saved of a workspace for ever. Raises Conflict while it has a session."""
        path = f"{API}/workspaces/{workspace_id}/erase"
        body = {"name": name, "reason": reason}
        return await self._transport.ask("POST", path, models.Erased, body=body, limit_s=VERIFY_S)

    async def second_store(self) -> models.SecondStore:
        """Return how far the second store is."""
        return await self._transport.ask("GET", f"{API}/second-store", models.SecondStore)

    async def compare_second_store(self) -> None:
        """Compare both stores now instead of within the hour."""
        await self._transport.ask("POST", f"{API}/second-store/compare", type(None))

    async def verify_second_copy(self, workspace_id: str, *, level: str) -> models.SecondCopy:
        """Check a workspace's second copy as if it were the only one."""
        path = f"{API}/workspaces/{workspace_id}/second-copy/verify"
        return await self._transport.ask(
            "POST", path, models.SecondCopy, body={"level": level}, limit_s=VERIFY_S
        )

    async def repair(self, workspace_id: str) -> models.Repair:
        """Bring back into the main store what it lacks and the second one has whole."""
        path = f"{API}/workspaces/{workspace_id}/repair"
        return await self._transport.ask("POST", path, models.Repair, limit_s=VERIFY_S)

    async def promote_second_store(self, *, url: str, reason: str) -> models.Promotion:
        """Make the second store the main one, for good."""
        path = f"{API}/second-store/promote"
        return await self._transport.ask("POST", path, models.Promotion, body={"url": url, "reason": reason})

    async def store_keys(self) -> models.StoreKeys:
        """Return what opens the store, by public names."""
        return await self._transport.ask("GET", f"{API}/keys", models.StoreKeys)

    async def set_recovery(self, public: bytes) -> models.StoreKeys:
        """Give the public half of a recovery code."""
        body = {"public": public.hex()}
        return await self._transport.ask("PUT", f"{API}/keys/recovery", models.StoreKeys, body=body)

    async def rewrap(self, tenant_id: str) -> models.Rewrapped:
        """Move a tenant's secrets to the master key, recovery code and KMS of now."""
        body = {"tenant_id": tenant_id}
        path = f"{API}/keys/rewrap"
        return await self._transport.ask("POST", path, models.Rewrapped, body=body, limit_s=VERIFY_S)

    async def rotate_tenant(self, tenant_id: str) -> models.Rewrapped:
        """Make a new key for a tenant and move its workspaces to it."""
        body = {"tenant_id": tenant_id}
        path = f"{API}/keys/rotate"
        return await self._transport.ask("POST", path, models.Rewrapped, body=body, limit_s=VERIFY_S)

    async def erase_person(
        self, user_id: str, *, name: str, reason: str, end_sessions: bool = False
    ) -> models.Erasure:
        """Erase everything that was saved of a person for ever. Raises Conflict while a desktop runs."""
        body = {"name": name, "reason": reason, "end_sessions": end_sessions}
        path = f"{API}/users/{user_id}/erase"
        return await self._transport.ask("POST", path, models.Erasure, body=body, limit_s=VERIFY_S)

    async def erasure(self, user_id: str) -> models.Erasure:
        """Return the signed receipts of an erased person. Raises NotFound if nobody erased that account."""
        return await self._transport.ask("GET", f"{API}/users/{user_id}/erasure", models.Erasure)

    async def verify_audit(self) -> models.AuditChain:
        """Recompute the audit chain. Raises AuditBroken."""
        return await self._transport.ask("GET", f"{API}/audit/verification", models.AuditChain)

    def registry_backup(self) -> AsyncIterator[bytes]:
        """Stream a consistent copy of the registry."""
        return self._transport.chunks(f"{API}/registry/backup", {})

    async def receipts(self, *, mine: bool = False) -> list[models.Receipt]:
        """Return receipts, newest first."""
        return await self._all(f"{API}/receipts", models.Receipt, {"mine": mine or None})

    async def receipt(self, session_id: str) -> models.Receipt:
        """Return the receipt of a session. Raises NotFound."""
        return await self._transport.ask("GET", f"{API}/receipts/{session_id}", models.Receipt)

    async def events(self, *, session_id: str | None = None, limit: int = 200) -> list[models.AuditEvent]:
        """Return the newest audit records that we may see, newest first."""
        query: Query = {"session_id": session_id}
        return await self._all(f"{API}/events", models.AuditEvent, query, items_max=limit)

    async def alarms(self) -> list[models.Alarm]:
        """Return what needs a person now."""
        return await self._all(f"{API}/alarms", models.Alarm)

    async def live(self) -> AsyncIterator[models.LiveEvent]:
        """Stream changes: a snapshot first. Raises PartUnavailable when the stream went silent."""
        fields: dict[str, str] = {}
        async for line in self._transport.lines(f"{API}/events/stream"):
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield models.LiveEvent(kind=fields.get("event", ""), data=json.loads(fields["data"]))
                fields = {}

    # -- parts of the above ---------------------------------------------------------------------------

    async def _act(
        self,
        session_id: str,
        act: str,
        body: Mapping[str, Any],
        kind: type[Item],
        *,
        key: str | None = None,
    ) -> Item:
        path = f"{API}/sessions/{session_id}/{act}".rstrip("/")
        headers = {"Idempotency-Key": key} if key is not None else None
        return await self._transport.ask("POST", path, kind, body=body, headers=headers)

    async def _all(
        self, path: str, kind: type[Item], query: Query | None = None, *, items_max: int | None = None
    ) -> list[Item]:
        """Follow a list to its end, or until there are enough of its items."""
        found: list[Item] = []
        cursor: str | None = ""
        takes_cursor = path != f"{API}/alarms"
        while cursor is not None and (items_max is None or len(found) < items_max):
            paging: Query = {"limit": PAGE_ITEMS, "cursor": cursor or None} if takes_cursor else {}
            page = await self._transport.ask("GET", path, _Page, query={**(query or {}), **paging})
            found.extend(msgspec.json.decode(item, type=kind) for item in page.items)
            cursor = page.next_cursor
        return found if items_max is None else found[:items_max]
