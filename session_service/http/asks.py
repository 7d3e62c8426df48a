"""What may be sent to the API: one model per body and per query, checked before a handler sees it.

Not the answers (`answers.py`). Unknown fields are refused, so that a misspelt one is never silently
without effect.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from session_service.base.ids import is_ulid
from session_service.http import limits
from session_service.ports.desktops import (
    KEYBOARD_LAYOUT_FORM,
    SCREEN_MAX,
    SCREEN_MIN,
    TEMPLATE_FORM,
    TIME_ZONE_FORM,
)

_NAME_PATTERN = r"^[^\x00-\x1f\x7f/\\]+$"
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=limits.NAME_LENGTH_MAX, pattern=_NAME_PATTERN
    ),
]
AccountName = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=limits.NAME_LENGTH_MAX,
        pattern=r"^[^\x00-\x20\x7f/\\]+$",
    ),
]
Password = Annotated[str, Field(min_length=1, max_length=limits.PASSWORD_BYTES_MAX)]
Reason = Annotated[str, Field(max_length=limits.REASON_LENGTH_MAX)]
Id = Annotated[str, Field(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
Number = Annotated[int, Field(ge=1, lt=1 << 53)]
"""Of a checkpoint or another entry of a log. No larger one can be told to a worker, or by a browser."""
Role = Literal["user", "operator", "administrator"]
Scope = Literal["read", "sessions", "files", "operate", "admin"]
State = Literal["starting", "active", "held", "closing", "closed"]


class Ask(BaseModel):
    """Base of everything that is sent to us."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Nothing(Ask):
    """A body without fields; may be left out."""


class Page(Ask):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=limits.PAGE_ITEMS_MAX)] = limits.PAGE_ITEMS_DEFAULT
    cursor: Annotated[str, Field(max_length=200)] = ""


class SetupAsk(Ask):
    """The first account, made with the code that the terminal shows."""

    code: Annotated[str, Field(min_length=1, max_length=64)]
    name: AccountName
    password: Password


class SignInAsk(Ask):
    """Account and password of a local account."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    password: Password


class PasswordAsk(Ask):
    """A new password for one's own account; the other sign-ins end."""

    current: Password
    new: Password


class SessionsQuery(Page):
    """Which sessions; operators may name a user or leave it out for all."""

    state: State | None = None
    open: bool | None = None
    workspace_id: Id | None = None
    user_id: Id | None = None
    mine: bool = False


class StartAsk(Ask):
    """Start a desktop in a workspace; an open session of it is returned instead of a second desktop."""

    workspace_id: Id | None = None
    template: Annotated[str, Field(pattern=f"^{TEMPLATE_FORM}$")] | None = None
    """What the desktop is made from. One that is not installed is refused, and the answer says which are."""
    geometry: (
        tuple[
            Annotated[int, Field(ge=SCREEN_MIN[0], le=SCREEN_MAX[0])],
            Annotated[int, Field(ge=SCREEN_MIN[1], le=SCREEN_MAX[1])],
        ]
        | None
    ) = None
    keyboard_layout: Annotated[str, Field(pattern=f"^({KEYBOARD_LAYOUT_FORM})?$")] = ""
    locale: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{0,64}$")] = ""
    time_zone: Annotated[str, Field(pattern=f"^({TIME_ZONE_FORM})?$")] = ""
    from_seq: Annotated[int, Field(ge=0, lt=1 << 53)] | None = None
    """The older checkpoint that the user chose, told what is missing."""


class ReasonAsk(Ask):
    """Why; shown to the user and kept in the audit log."""

    reason: Reason = ""


class ExtendAsk(Ask):
    """Add to (or take from) what remains of a hold."""

    seconds: Annotated[float, Field(ge=-604_800, le=604_800, allow_inf_nan=False)]
    reason: Reason = ""


class AcceptAsk(Ask):
    """Accept by name that these files cannot be saved; it stands on the receipt and in the audit log."""

    paths: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=4 * limits.PATH_BYTES_MAX)]],
        Field(min_length=1, max_length=1000),
    ]
    reason: Annotated[str, Field(min_length=1, max_length=limits.REASON_LENGTH_MAX)]


class TicketAsk(Ask):
    """Ask for the one-use right to open a link to a session."""

    mode: Literal["control", "view"] = "control"
    device_label: Annotated[
        str, Field(max_length=limits.LABEL_LENGTH_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")
    ] = ""


class WorkspaceAsk(Ask):
    """A further home beside the default one."""

    name: Name


class UploadQuery(Ask):
    """The file's name in the home's folder of uploads."""

    name: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00/]+$")]

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if value in {".", ".."} or len(value.encode("utf-8", "surrogateescape")) > 255:
            raise ValueError("not a file name")
        return value


class PathQuery(Ask):
    """A path inside the home, from its top; bytes that are not UTF-8 are written as \\xNN."""

    path: Annotated[str, Field(max_length=4 * limits.PATH_BYTES_MAX)] = ""


class ArchiveQuery(PathQuery):
    """Which folder, and as what kind of file. With `checked` large files are read twice, so that one that is
    damaged in the store is left out and listed, where it would end the download otherwise.
    """

    kind: Literal["zip", "tar"] = "zip"
    checked: bool = False


class RestoreAsk(Ask):
    """Which file or folder of which checkpoint; an empty path is the whole home."""

    seq: Number
    path: Annotated[str, Field(max_length=4 * limits.PATH_BYTES_MAX)] = ""


class FilesQuery(Ask):
    """Which folder, and which part of it; with `prefix` names that begin so, capitals told apart."""

    limit: Annotated[int, Field(ge=1, le=limits.FOLDER_PAGE_ENTRIES_MAX)] = limits.PAGE_ITEMS_DEFAULT
    cursor: Annotated[str, Field(max_length=4 * limits.NAME_BYTES_MAX)] = ""
    path: Annotated[str, Field(max_length=4 * limits.PATH_BYTES_MAX)] = ""
    prefix: Annotated[str, Field(max_length=4 * limits.NAME_BYTES_MAX)] = ""


class UsersQuery(Page):
    """Which accounts."""


class UserAsk(Ask):
    """A new account."""

    name: AccountName
    password: Password
    role: Role = "user"


class UserChangeAsk(Ask):
    """What to change of an account; what is left out stays."""

    role: Role | None = None
    disabled: bool | None = None
    password: Password | None = None


class TokenAsk(Ask):
    """A token for programs; it is shown once."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=5)]
    expires_in_s: Annotated[float, Field(gt=0, le=limits.API_TOKEN_S_MAX, allow_inf_nan=False)] | None = None
    user_id: Id | None = None
    """For whom; only on the unix socket."""


class ReceiptsQuery(Page):
    """Which receipts."""

    mine: bool = False


class EventsQuery(Page):
    """Which audit records; operators see everybody's, others what concerns them."""

    session_id: Id | None = None
    newest_first: bool = True


def is_id(text: str) -> bool:
    """Say whether a part of a path can be an id at all."""
    return is_ulid(text)
