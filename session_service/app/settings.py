"""Every setting, its default and who would change it. Order: default, file, environment, flag.

Not limits: those have names in `core/limits.py` and no setting. Unknown keys are refused at start.
Secrets come from files. The page
docs/configuration.md is generated from this module.
"""

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from session_service.app.refused import ConfigurationRefused

ENVIRONMENT_PREFIX = "SESSION_SERVICE_"


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Group):
    """Where the one port is, and who may speak to it."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs TLS files or `behind_proxy`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The one port for pages, API and desktops; 0 takes a free one."""
    public_origins: tuple[str, ...] = ()
    """Origins under which browsers reach the service, such as https://desk.example; empty = the loopback
    addresses.
    """
    tls_certificate: Path | None = None
    """PEM file with the certificate chain; for one machine without a proxy."""
    tls_key: Path | None = None
    """PEM file with the private key, readable by the service only."""
    behind_proxy: bool = False
    """A TLS-terminating proxy stands in front; its X-Forwarded-For is believed."""
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks of that proxy; nobody else's X-Forwarded-For is looked at."""


class Gateway(_Group):
    """The processes that carry desktops' bytes."""

    processes: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = 1
    """1 carries them inside the service; more add processes of their own, auto one per core. For hundreds of
    busy users on one machine; put TLS into a proxy in front then.
    """
    ring_mib: Annotated[int, Field(ge=1, le=32)] = 4
    """MiB that one desktop may send and its client has not acknowledged; then it is slowed down. More for
    users on fast lines far away: bytes per second times the round trip. It is memory while it is in use.
    """


class Store(_Group):
    """Where checkpoints go. Change it to keep files elsewhere than on this machine."""

    url: str = ""
    """file:///folder or s3://bucket/prefix?endpoint=http://host:port&region=name; empty = a folder in the
    state folder.
    """
    credentials_file: Path | None = None
    """File with the lines access_key = ... and secret_key = ... for S3; empty = the usual AWS_ variables."""
    master_key_file: Path | None = None
    """The key that opens everything; empty = keys/master.key in the state folder. Copy it to a safe place."""
    master_key_command: tuple[str, ...] = ()
    """Program and arguments that print the master key (32 bytes raw, hex or base64); then no file is read."""
    previous_master_key_file: Path | None = None
    """An older master key that still opens what `session-service keys rewrap` has not moved yet."""
    previous_master_key_command: tuple[str, ...] = ()
    """The same, from a command."""
    kms_wrap_command: tuple[str, ...] = ()
    """Program and arguments that encrypt standard input to standard output; {key} is the key's name."""
    kms_unwrap_command: tuple[str, ...] = ()
    """The way back: ciphertext in, 32 bytes out."""
    kms_key: str = ""
    """Name of a KMS key that also opens every tenant; a second way in beside the master key."""
    kms_workspace_key: str = ""
    """Name of a KMS key per workspace, with {workspace}: destroying it there erases every copy of that
    workspace, backups of the bucket included. Without the KMS nothing opens such a workspace.
    """
    second_url: str = ""
    """A second store that gets a copy of everything, written as `url` is; empty = none. Choose another
    machine.
    """
    second_credentials_file: Path | None = None
    """As `credentials_file`, for the second store."""
    second_required: Literal["off", "close"] = "off"
    """close lets a closing desktop wait, frozen, until its last checkpoint is on the second store, too. off
    never waits for it.
    """
    workers: Annotated[int, Field(ge=1, le=16)] = 2
    """Processes that save and restore, one home at a time each."""
    upload_mib_per_s: Annotated[int, Field(ge=0, le=100_000)] = 0
    """MiB by second that all workers of this machine together may send to the store, on average; 0 = no
    limit. Each worker has an equal part. Sessions are saved less often where it is not enough.
    """
    download_mib_per_s: Annotated[int, Field(ge=0, le=100_000)] = 0
    """The same for what they fetch: restores, and checks of what was saved. The second store has no limit."""
    upkeep: Literal["off", "on"] = "on"
    """on forgets old checkpoints as `retention` says and frees what nothing needs, once an hour. off keeps
    everything; `session-service checkpoints gc` does it by hand.
    """


class Hold(_Group):
    """The promise to the user."""

    hold_s: Annotated[float, Field(ge=0, le=604_800)] = 1800.0
    """How long a dropped session waits for its user. Longer keeps desktops (and memory) for people who
    left.
    """
    checkpoint_target_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """How old unsaved work may get while somebody works. Shorter costs more requests to the store."""
    reauthenticate_after_s: Annotated[float, Field(ge=0, le=604_800)] | None = None
    """How long a lost client may be away and come back without being signed in; empty = the whole hold, 0 =
    each return asks. Who is signed in notices nothing; for places where a session must end with its sign-in.
    """
    tickets_in_path: bool = True
    """Allow one-use tickets in the path, which unmodified VNC clients need; off = 403 for all of them."""


class Retention(_Group):
    """Which checkpoints stay when old ones are forgotten. The newest, pinned ones and those of a close that
    is not over stay in any case.
    """

    keep_last: Annotated[int, Field(ge=1, le=100_000)] = 10
    """How many of the newest stay, however close together."""
    keep_hourly: Annotated[int, Field(ge=0, le=100_000)] = 24
    """The newest of so many hours that have one. More gives users more points to go back to, and costs
    space.
    """
    keep_daily: Annotated[int, Field(ge=0, le=100_000)] = 14
    """The newest of so many days that have one."""
    keep_weekly: Annotated[int, Field(ge=0, le=100_000)] = 8
    """The newest of so many weeks that have one."""
    keep_monthly: Annotated[int, Field(ge=0, le=100_000)] = 12
    """The newest of so many months that have one."""
    keep_within_s: Annotated[float, Field(ge=0, le=316_224_000)] = 3600.0
    """Everything younger than this."""


class Desktops(_Group):
    """What a desktop is and may use."""

    template: str = "openbox"
    """openbox, xfce (where installed) or bare."""
    sandbox: Literal["on", "off"] = "on"
    """off runs desktops without bubblewrap: only for trusted users on a machine that forbids user
    namespaces.
    """
    network: Literal["isolated", "none", "host"] = "isolated"
    """isolated reaches the internet but neither this machine nor private ranges; host shares everything."""
    memory_mb_max: Annotated[int, Field(ge=128)] = 4096
    """Memory of one desktop; more is taken from the others."""
    cpus_max: Annotated[float, Field(gt=0)] = 2.0
    """Processor time of one desktop, in cores."""
    processes_max: Annotated[int, Field(ge=50)] = 2000
    """Processes of one desktop; stops fork bombs."""
    geometry: tuple[int, int] = (1280, 800)
    """Screen of a new desktop until its window asks for another."""


class Room(_Group):
    """When no further desktop is started; running ones are never touched."""

    memory_free_mb_min: Annotated[int, Field(ge=0)] = 512
    """Memory that must stay free after a start."""
    disk_free_mb_min: Annotated[int, Field(ge=0)] = 1024
    """Disk that must stay free in the state folder."""


class Alarms(_Group):
    """Who is told besides the operator page."""

    webhook: str = ""
    """URL that gets each alarm as a JSON POST."""
    command: tuple[str, ...] = ()
    """Program and arguments that get each alarm as JSON on standard input."""


class Logs(_Group):
    """How the service speaks to its log."""

    format: Literal["auto", "console", "json"] = "auto"
    """auto is console on a terminal, else JSON."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """debug adds our own details."""


def default_state_folder() -> Path:
    """Return /var/lib/session-service for root, else the user's data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/session-service")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(base) / "session-service"


class Settings(_Group):
    """All settings of one machine."""

    state_folder: Path = Field(default_factory=default_state_folder)
    """Where registry, keys, homes, checkpoints and sockets lie."""
    node_name: str = ""
    """Name of this machine in lists; empty = its host name."""
    listen: Listen = Listen()
    gateway: Gateway = Gateway()
    store: Store = Store()
    hold: Hold = Hold()
    retention: Retention = Retention()
    desktops: Desktops = Desktops()
    room: Room = Room()
    alarms: Alarms = Alarms()
    logs: Logs = Logs()


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    out = dict(low)
    for key, value in high.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def _from_environment() -> dict[str, Any]:
    """Return only what the environment says: parsed apart, so that a file is below it and a flag above it.

    The library for it is imported where there is something to parse: it takes as long as all of a part.
    """
    if not any(name.upper().startswith(ENVIRONMENT_PREFIX) for name in os.environ):
        return {}
    from session_service.app.environment import read

    return read(Settings, prefix=ENVIRONMENT_PREFIX)


def _nested(flags: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for dotted, value in flags.items():
        place = out
        *groups, last = dotted.split(".")
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = _listed(dotted, value) if isinstance(value, str) else value
    return out


def _listed(dotted: str, text: str) -> Any:
    """Return the list that a text stands for where the setting is one: JSON, as in the environment."""
    group, _, name = dotted.partition(".")
    model = Settings.model_fields[group].annotation if group in Settings.model_fields else None
    field = getattr(model, "model_fields", {}).get(name)
    if field is None or get_origin(field.annotation) is not tuple:
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise ConfigurationRefused(f'setting {dotted} is a list, such as ["one", "two"], and not {text}')
    return found


def load(config: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Read the settings. `flags` are dotted names ("listen.port") with values that win over all.

    Raises:
        ConfigurationRefused: an unknown key or an unusable value; the text names it and where it came from.
    """
    try:
        file_values: dict[str, Any] = tomllib.loads(config.read_text()) if config else {}
    except OSError as exc:
        raise ConfigurationRefused(f"{config} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationRefused(f"{config}: {exc}") from exc
    known = set(Settings.model_fields)
    for name in os.environ:
        first = name.removeprefix(ENVIRONMENT_PREFIX).split("__")[0].lower()
        if (
            name.startswith(ENVIRONMENT_PREFIX)
            and first not in known | {"test", "bench"}
            and "TEST_" not in name
        ):
            raise ConfigurationRefused(f"environment variable {name} names no setting")
    try:
        settings = Settings(**_merged(_merged(file_values, _from_environment()), _nested(flags or {})))
    except ValidationError as exc:
        first_error = exc.errors()[0]
        place = ".".join(str(part) for part in first_error["loc"])
        if first_error["type"] == "extra_forbidden":
            raise ConfigurationRefused(
                f"there is no setting {place}; docs/configuration.md lists all"
            ) from exc
        raise ConfigurationRefused(f"setting {place}: {first_error['msg']}") from exc
    _check(settings)
    return settings


def store_flaw(url: str) -> str:
    """Say what is wrong with the address of a store, as the end of a sentence; empty if nothing is."""
    parts = urlsplit(url)
    if parts.scheme not in {"file", "s3"}:
        return "begins with neither file:// nor s3://"
    if parts.scheme == "s3" and not parts.netloc:
        return "names no bucket: s3://bucket/prefix?endpoint=URL"
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        return "names no folder: file:///folder, with three slashes"
    return ""


def _check(settings: Settings) -> None:
    store = settings.store
    for name, url in (("url", store.url), ("second_url", store.second_url)):
        if url and (flaw := store_flaw(url)):
            raise ConfigurationRefused(f"store.{name} {flaw}")
    if store.second_url and store.second_url == store.url:
        raise ConfigurationRefused("store.second_url is store.url: a second copy belongs to another place")
    if store.second_required == "close" and not store.second_url:
        raise ConfigurationRefused("store.second_required = close needs store.second_url")
    listen = settings.listen
    loopback = listen.host in {"127.0.0.1", "::1", "localhost"}
    if (listen.tls_certificate is None) != (listen.tls_key is None):
        raise ConfigurationRefused("listen.tls_certificate and listen.tls_key belong together")
    if not loopback and listen.tls_certificate is None and not listen.behind_proxy:
        raise ConfigurationRefused(
            f"listen.host {listen.host} is reachable from outside: give listen.tls_certificate and "
            "listen.tls_key, or set listen.behind_proxy = true when a TLS proxy stands in front"
        )
    if not loopback and not listen.public_origins:
        raise ConfigurationRefused("listen.public_origins must name the address that browsers use")
