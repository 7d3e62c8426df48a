"""Records and views as answers: what is shown of each, and to whom.

Pure. Nothing secret goes in here: hashes of secrets, password hashes and tickets have no field to go into.
"""

import json
from collections.abc import Iterable
from typing import Any

from session_service.core.records import (
    ApiToken,
    AuditRecord,
    Lease,
    Receipt,
    SignIn,
    User,
    Workspace,
)
from session_service.core.views import Alarm, SessionView
from session_service.http import answers, paths
from session_service.http.instants import iso, iso_of_file, iso_or_none
from session_service.ports.checkpoints import CheckpointInfo, FolderEntry


def session(view: SessionView, *, for_operator: bool) -> answers.SessionOut:
    """Return a session; node and client address are for operators."""
    record = view.session
    return answers.SessionOut(
        id=record.id,
        workspace=answers.NamedOut(id=record.workspace_id, name=view.workspace_name),
        user=answers.NamedOut(id=record.user_id, name=view.user_name),
        state=record.state.value,
        outcome=record.outcome.value if record.outcome else None,
        generation=record.generation,
        created_at=iso(record.created_at_ms),
        closed_at=iso_or_none(record.closed_at_ms),
        hold_s=record.hold_s,
        hold_remaining_s=view.hold_remaining_s,
        hold_deadline=iso_or_none(view.hold_deadline_ms),
        hold_counting=view.counting,
        loss_cause=record.loss_cause.value if record.loss_cause else None,
        lost_at=iso_or_none(record.lost_at_ms),
        saved_as_of=iso_or_none(view.saved_as_of_ms),
        saved_seq=view.saved_seq,
        pending_files=view.pending_files,
        pending_bytes=view.pending_bytes,
        pending_looked_at=iso_or_none(view.pending_looked_at_ms),
        save_interval_s=view.save_interval_s,
        save_rule=view.save_rule,
        save_promise_s=view.save_promise_s,
        links=view.links,
        link_since=iso_or_none(view.link_since_ms),
        device_label=record.device_label,
        close_step=record.close_step.value if record.close_step else None,
        close_cause=record.close_cause.value if record.close_cause else None,
        progress=_progress(view),
        step_error=view.step_error,
        step_since=iso_or_none(view.step_since_ms),
        step_attempts=view.step_attempts,
        start_from_seq=record.start_from.seq if record.start_from else None,
        chosen_seq=record.chosen_seq,
        refused_windows=list(record.refused_windows),
        accepted_paths=list(record.accepted_paths),
        detail=record.detail,
        network=view.network,
        limits_missing=list(view.limits_missing),
        node_id=record.node_id if for_operator else None,
        address=view.address if for_operator else None,
    )


def _progress(view: SessionView) -> answers.ProgressOut | None:
    if not view.progress_stage:
        return None
    return answers.ProgressOut(
        stage=view.progress_stage,
        done=view.progress_done,
        total=view.progress_total,
        unit=view.progress_unit,
        per_s=view.progress_per_s,
        left_s=view.progress_left_s,
    )


def workspace(record: Workspace, lease: Lease | None) -> answers.WorkspaceOut:
    """Return a workspace with what its lease says of it."""
    return answers.WorkspaceOut(
        id=record.id,
        name=record.name,
        user_id=record.user_id,
        created_at=iso(record.created_at_ms),
        open_session_id=lease.session_id if lease else None,
        saved_as_of=iso_or_none(lease.saved_as_of_ms) if lease else None,
        saved_seq=lease.saved_seq if lease else None,
    )


def checkpoint(info: CheckpointInfo) -> answers.CheckpointOut:
    """Return a checkpoint as listed."""
    return answers.CheckpointOut(
        seq=info.seq,
        hash=info.hash.hex(),
        session_id=info.session_id,
        saved_as_of=iso(info.scan_ms),
        reason=info.reason,
        complete=info.complete,
        final=info.final,
        frozen=info.frozen,
        entries=info.entries,
        bytes=info.bytes,
        new_stored_bytes=info.new_stored_bytes,
        skipped=info.skipped,
        fuzzy=info.fuzzy,
        unreadable=info.unreadable,
        pinned=info.pinned,
        bad_paths=[
            answers.BadPathOut(path=bad.path, grade=bad.grade, error=bad.error) for bad in info.bad_paths
        ],
    )


def file(entry: FolderEntry, folder: bytes) -> answers.FileOut:
    """Return an entry of a folder; `path` can be sent back as it is, whatever bytes the name has."""
    whole = folder + b"/" + entry.raw_name if folder else entry.raw_name
    return answers.FileOut(
        name=paths.shown(entry.raw_name),
        path=paths.shown(whole),
        kind=entry.kind,
        size=entry.size,
        mode=f"{entry.mode & 0o7777:04o}",
        modified_at=iso_of_file(entry.mtime_ms),
        grade=entry.grade,
        link_target=entry.link_target,
    )


def receipt(record: Receipt) -> answers.ReceiptOut:
    """Return a receipt with its sealed body as JSON."""
    return answers.ReceiptOut(
        session_id=record.session_id,
        workspace_id=record.workspace_id,
        user_id=record.user_id,
        written_at=iso(record.written_at_ms),
        body=_json_object(record.body),
    )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"unreadable": True}


def event(record: AuditRecord) -> answers.EventOut:
    """Return an audit record with its place in the chain."""
    entry = record.entry
    return answers.EventOut(
        seq=record.seq,
        kind=entry.kind,
        actor=entry.actor,
        at=iso(entry.at_ms),
        session_id=entry.session_id,
        workspace_id=entry.workspace_id,
        user_id=entry.user_id,
        facts=dict(entry.facts),
        hash=record.hash.hex(),
    )


def user(record: User) -> answers.UserOut:
    """Return an account without its password's hash."""
    return answers.UserOut(
        id=record.id,
        name=record.name,
        role=record.role,
        disabled=record.disabled,
        created_at=iso(record.created_at_ms),
        generation=record.generation,
    )


def sign_in(record: SignIn, *, this_one: bool) -> answers.SignInOut:
    """Return a signed-in browser; its id is the device's, since the cookie's hash is nobody's business."""
    return answers.SignInOut(
        id=record.device_id,
        device_label=record.device_label,
        created_at=iso(record.created_at_ms),
        last_seen=iso(record.last_seen_ms),
        expires_at=iso(record.expires_at_ms),
        this_one=this_one,
    )


def token(record: ApiToken) -> answers.TokenOut:
    """Return a token's record; the token itself was shown once."""
    return answers.TokenOut(
        id=record.id,
        user_id=record.user_id,
        name=record.name,
        scopes=list(record.scopes),
        created_at=iso(record.created_at_ms),
        expires_at=iso_or_none(record.expires_at_ms),
        revoked_at=iso_or_none(record.revoked_at_ms),
    )


def alarm(record: Alarm) -> answers.AlarmOut:
    """Return an alarm."""
    return answers.AlarmOut(
        id=record.id,
        kind=record.kind,
        since=iso(record.since_ms),
        detail=record.detail,
        action=record.action,
        session_id=record.session_id,
        facts=dict(record.facts),
    )


def alarms(records: Iterable[Alarm]) -> answers.AlarmsOut:
    """Return all open alarms, oldest first."""
    ordered = sorted(records, key=lambda each: (each.since_ms, each.id))
    return answers.AlarmsOut(items=[alarm(each) for each in ordered], next_cursor=None)
