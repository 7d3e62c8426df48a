"""Every limit of the HTTP side with its unit and its reason, in one place.

Not settings: what an administrator may change is in `settings.py`. What happens at each limit stands
beside it.
"""

from typing import Final

JSON_BODY_BYTES_MAX: Final = 64 << 10
"""A request's JSON body; the largest is a list of accepted paths. Over it: `too_large`."""
BODY_READ_S: Final = 20.0
"""Time for a whole JSON body to arrive. Over it: `bad_input`, so that slow senders hold nothing."""
KEEP_ALIVE_S: Final = 75.0
"""A connection that asks for nothing further is closed; longer than proxies keep theirs (60 s). The library's
own default is an hour.
"""
UPLOAD_BYTES_MAX: Final = 4 << 30
"""One uploaded file. Over it: `too_large`; larger files go in through the desktop."""
UPLOAD_IDLE_S: Final = 60.0
"""Time without a byte of an upload. Over it the upload is dropped and its temporary file removed."""
UPLOADS_AT_ONCE_MAX: Final = 8
"""Uploads under way in the process; each writes to the same disk. Over it: `too_many_attempts`."""
UPLOADS_PER_USER_MAX: Final = 3
"""... and of one account, so that a slow sender cannot hold all turns. Over it: `too_many_attempts`."""
UPLOAD_FREE_BYTES_MIN: Final = 512 << 20
"""Disk that an upload must leave free in the state folder. Under it: `no_room`."""
UPLOAD_LOOK_BYTES: Final = 32 << 20
"""After so many bytes of an upload the free disk is looked at again: not every sender says how many come."""
UPLOAD_CHUNK_BYTES: Final = 256 << 10
DOWNLOADS_AT_ONCE_MAX: Final = 64
"""Downloads under way in the process; each has a worker read, open and unpack for it. Over it:
`too_many_attempts`.
"""
DOWNLOADS_PER_USER_MAX: Final = 8
"""... and of one account: a browser asks for six at once. Over it: `too_many_attempts`."""
DOWNLOAD_IDLE_S: Final = 60.0
"""Time in which a reader of a download takes nothing. Over it the link is cut; half a file never looks
whole.
"""
STORE_S: Final = 30.0
"""How long a question to the object store may take. Over it: `storage_unavailable`, to be asked again."""

PAGE_ITEMS_DEFAULT: Final = 50
PAGE_ITEMS_MAX: Final = 200
"""Items of one page of a list; more come under the cursor."""
FOLDER_PAGE_ENTRIES_MAX: Final = 1_000
"""... of a folder of a checkpoint: as many as the storage gives at once, for whoever reads all of a large
one.
"""
NAME_BYTES_MAX: Final = 255
"""One name in a folder, as Linux has it."""
RECEIPTS_BACK_MAX: Final = 20_000
"""How far back the list of receipts goes; older ones are read by their session."""
AUDIT_SCAN_MAX: Final = 5000
"""Audit records looked through for one page of somebody's own events; the cursor goes on from there."""
AUDIT_BATCH: Final = 500

SIGN_IN_TRIES: Final = 5
"""Wrong passwords for one account from one address before the first pause of that pair: a stranger who keeps
guessing pauses himself, and not the account's own user at another address.
"""
ACCOUNT_TRIES: Final = 50
"""Wrong passwords for one account from everywhere before the first pause of the account."""
ADDRESS_TRIES: Final = 20
"""Wrong passwords from one client address (IPv6: its /64) before the first pause: an office shares one."""
SETUP_TRIES: Final = 5
"""Wrong setup codes from anywhere before the first pause: there is one code for all."""
PAUSE_S_FIRST: Final = 60.0
PAUSE_S_MAX: Final = 3600.0
"""Each further failure doubles the pause from the first to this."""
FAILURES_FORGOTTEN_S: Final = 3600.0
"""A key without a failure for so long (after its pause) starts anew."""
THROTTLE_KEYS_MAX: Final = 20_000
"""Accounts and addresses remembered; the one failed longest ago is forgotten first."""

PASSWORD_LENGTH_MIN: Final = 10
PASSWORD_BYTES_MAX: Final = 1024
"""Longer ones only cost hashing time. Over it: `bad_input`."""
PASSWORD_HASHES_AT_ONCE: Final = 2
"""Each takes 64 MiB for 50 ms: argon2 is a memory bomb by design."""
PASSWORD_HASHES_WAITING_MAX: Final = 64
"""Sign-ins that wait for a turn. Over it: `too_many_attempts` with a second to wait."""

SETUP_CODE_LENGTH: Final = 10
SETUP_CODE_S: Final = 900.0
"""How long a setup code counts; a new start makes a new one."""
SIGN_IN_S_MAX: Final = 7 * 86_400.0
"""A sign-in ends after so long whatever happens."""
SIGN_IN_IDLE_S: Final = 2 * 86_400.0
"""... or after so long without a request."""
SIGN_IN_SEEN_S: Final = 300.0
"""How exactly `last_seen` is kept: one write per browser in this time."""
SIGN_INS_PER_USER_MAX: Final = 50
"""Browsers of one account; the oldest is signed out when another comes."""
API_TOKENS_PER_USER_MAX: Final = 50
"""Tokens of one account that are not revoked. Over it: `conflict`."""
API_TOKEN_S_MAX: Final = 366 * 86_400.0

IDEMPOTENCY_KEY_LENGTH_MIN: Final = 16
"""The stored answer is sealed under the key, so it must not be guessable: a UUID is right."""
IDEMPOTENCY_KEY_LENGTH_MAX: Final = 128

STREAMS_MAX: Final = 1000
"""Live event streams of the process. Over it: `too_many_streams`."""
STREAMS_PER_USER_MAX: Final = 16
STREAM_HEARTBEAT_S: Final = 15.0
"""A stream without news says that it lives; proxies cut at 30 to 60 s."""
STREAM_LOOK_S: Final = 1.0
"""How often a stream looks at alarms and at whether its reader may still read (revoked within 2 s)."""
STREAM_WRITE_S: Final = 10.0
"""A reader that takes nothing for so long is cut off; it reconnects and gets a new snapshot."""

STATUS_S: Final = 2.0
"""How long a status or readiness question may wait for another part before it says unknown."""
STATUS_FRESH_S: Final = 5.0
"""How long an answer about the store is told again without asking."""
STATIC_FILE_BYTES_MAX: Final = 16 << 20
"""A file of the pages; larger ones are not served."""
LABEL_LENGTH_MAX: Final = 64
REASON_LENGTH_MAX: Final = 500
NAME_LENGTH_MAX: Final = 64
PATH_BYTES_MAX: Final = 4096
"""A path inside a home, as Linux limits it."""
RETRY_AFTER_S: Final = 2
"""What `Retry-After` says when the failure names no time of its own."""
