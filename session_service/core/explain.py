"""Audit records in words: "explain this session" for users and operators.

Not the record itself, which stays data; a kind that is unknown here is shown by its name.
"""

from collections.abc import Mapping
from string import Template

from session_service.core.records import AuditEntry

WORDS: Mapping[str, str] = {
    "session.start": "A desktop was asked for.",
    "session.refenced": "The log knew a newer owner; the fence was raised to $fence.",
    "session.desktop_ready": "The desktop was ready.",
    "session.start_failed": "The desktop did not start: $reason.",
    "session.client_attached": "A client attached ($device).",
    "session.client_resumed": "A client came back ($device).",
    "session.client_dropped": "The client was lost: $cause. The hold began.",
    "session.keys_revoked": "Whoever comes back has to sign in again.",
    "session.hold_expired": "Nobody came back in time; closing began.",
    "session.hold_changed": "The hold was changed by $delta_s s.",
    "session.idle_limit": "Nobody used it for the time the policy names; closing began.",
    "session.length_limit": "The longest time the policy allows was over; closing began.",
    "session.user_end": "Its user ended it.",
    "session.operator_end": "An operator ended it.",
    "session.desktop_died": "The desktop's processes ended by themselves.",
    "session.desktop_absent": "Neither desktop nor home was on the machine.",
    "session.step_done": "A step of the close was done: $step.",
    "session.home_changed": "Home and last checkpoint differed, or the store lost it: it was saved again.",
    "session.desktop_reused": "Its user came back while it was being saved, and got the desktop back.",
    "session.returned": "The desktop went on from an earlier session.",
    "session.paths_accepted": "Files that cannot be read were accepted by name.",
    "session.adopted": "A running desktop was found that no record named; it was adopted.",
    "session.settled": "The registry was restored; the desktop got a full hold.",
    "session.moved": "The desktop moved to another node.",
    "session.taken_over": "Another node took the workspace over.",
    "session.node_gone": "Its node is gone for good.",
    "session.saved_on_demand": "A checkpoint was asked for.",
    "operator.acted": "An operator asked for: $act.",
    "file.uploaded": "A file was put into it.",
    "file.restored": "Saved files were put into its folder Restored.",
    "file.restored_in_part": "Of these files $left_out could not be given: an object is damaged.",
    "link.looked_on": "Somebody looked on.",
    "picture.looked_at": "Its user was shown a picture of it.",
}


def in_words(entry: AuditEntry) -> str:
    """Return one sentence for an audit record."""
    facts = {name: "" if value is None else str(value) for name, value in entry.facts}
    if entry.kind == "session.step_done" and not facts.get("step"):
        return f"Applications were asked to close (hook: {facts.get('hook', 'none')})."
    return Template(WORDS.get(entry.kind, entry.kind)).safe_substitute(
        {"device": "", "reason": "", "cause": "", "step": "", "fence": "", "delta_s": ""} | facts
    )
