"""Every limit of the lifecycle, with its unit, its reason and what happens at it. Source: lifecycle.md
section 10.

Not settings: few of these are ever changed, and then here. What a policy may set stands in `core/policy.py`;
the availability clock's own constants stand beside its rules in `core/availability.py`.
"""

from typing import Final

# Starting
START_S_MAX: Final = 60.0
"""A launch that takes longer is tried again; the user is told."""
START_ALARM_S: Final = 300.0
"""A session that is still starting then raises an alarm."""
START_WAIT_S_MAX: Final = 20.0
"""How long an attach waits for a starting desktop before it is told to ask again."""
STARTS_AT_ONCE: Final = 8
"""More starts wait: each restores a home and launches a display."""

SURVEY_S_MAX: Final = 5.0
"""How long a start waits, right after the service's own start, for the first look at the machine."""

# Holding
EXPIRY_LOOK_S_MAX: Final = 1.0
"""The longest pause between two looks at the wheel: a hold ends at most this late, plus one group."""

# Closing
STEP_ALARM_S: Final = 60.0
"""A close step without progress raises an alarm; nothing is given up."""
ENDING_ALARM_S: Final = 30.0
"""The same for `ending` and `ended`, where only a machine is waited for."""
FREEZE_S_MAX: Final = 10.0
"""A process that cannot be frozen in this time: the close stays where it is, with an alarm."""
ASK_S_MAX: Final = 40.0
"""Hook 30 s, windows 2.5 s, TERM 3 s, and slack; then the applications are frozen as they are."""
CLOSES_AT_ONCE: Final = 16
"""Close steps that run at the same time; the others wait, frozen or running as their step says."""
RETRY_S_MIN: Final = 1.0
RETRY_S_MAX: Final = 30.0
"""Pauses of every endless retry: doubled from the first to the second, with jitter. Giving up is not an
outcome.
"""
ALARM_ATTEMPTS: Final = 2
"""So many failures in a row raise the alarm early; one hiccup does not."""

CLOSE_STEP_S_MAX: Final = 14_400.0
"""A step that takes longer is tried again; not the two that save, which go on while they move."""
HOME_CHANGES_ALARM: Final = 3
"""A home that differs so often from its last checkpoint, though nothing of the desktop is left, has a writer
of its own.
"""

# Saving
SAVE_SCAN_FACTOR: Final = 20.0
"""The next periodic scan starts after this many times the last scan's duration, or the target, whichever is
longer.
"""
SAVES_PER_CORE: Final = 1
SAVED_AGE_ALARM_S: Final = 300.0
"""Saved-as-of older than this with a healthy store raises an alarm."""

# Calls
CLOSED_LOOKED_AT_MAX: Final = 50
"""Closed sessions of a workspace, newest first, in which the failed start of a home without a desktop is
looked for. One that is older has its home saved before it is wiped, like any other.
"""
CALL_S_MAX: Final = 30.0
"""A call to another part that should answer at once."""
PROGRESS_S_MAX: Final = 900.0
"""A checkpoint or restore that tells of no progress for so long is given up and begun again: a pack of 16 MiB
at 20 KB/s, the slowest line that counts as one. How long it takes in all has no limit: what is cut off keeps
nothing, and a large home would never be saved.
"""
COMMIT_TRIES_MAX: Final = 8
"""A user's request reads the record again so often after a lost compare-and-set before it is told
`conflict`.
"""

# Reconciling
RECONCILE_S: Final = 30.0
LOOP_STALL_S_MAX: Final = 15.0
"""A loop without a turn for this long is reported and the node is not ready."""

# Watching
SUBSCRIBERS_MAX: Final = 512
"""More watchers are refused; each holds at most one note per session."""
ALARMS_MAX: Final = 1_000
"""More alarms are counted, not kept: the first ones matter."""

# Tickets
TICKET_S: Final = 60.0
"""A ticket is for the page that asked for it, now."""
LABEL_CHARACTERS_MAX: Final = 64

MARKS_S_MAX: Final = 5.0
"""For the host to write or read a mark: who comes back meanwhile waits, then is told to ask again."""
LINK_SILENT_S: Final = 15.0
"""A link that waits for a starting desktop asks again within a second, and one that was answered is open at
its
gateway: a link that does neither for this long is gone, and its end was never told."""

# Pictures
PICTURE_KEPT_S: Final = 10.0
"""A picture of a desktop is told again for so long, and none is taken sooner; then it is forgotten."""
PICTURES_AT_ONCE: Final = 2
"""Looks under way on the node: each reads one screen. One user has one at a time."""
PICTURE_USERS_MAX: Final = 16
"""Users who wait for a look, with those whose look is under way; each has one for an open desktop at most.
Over it: `too_many_attempts`.
"""

# Names
WORKSPACE_NAME_CHARACTERS_MAX: Final = 64
VIEWERS_PER_SESSION_MAX: Final = 32
"""Links that look on; each has a connection of its own to the desktop and is one of the links that a gateway
has for everybody. Over it: 4429.
"""
WORKSPACES_PER_USER_MAX: Final = 50
OPEN_DESKTOPS_PER_USER_MAX: Final = 8
"""Sessions of one user that are not closed, one per workspace: each holds memory while it waits. More are
refused.
"""
CLOSED_REMEMBERED_MAX: Final = 10_000
"""So many closed sessions are remembered, so that a list that was read before their end does not bring them
back.
"""
SESSION_ROWS_MAX: Final = 1_000
"""Closed sessions of one list."""
EXPLANATION_RECORDS_MAX: Final = 1_000
