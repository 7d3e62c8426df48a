"""Exceptions from the rules of the architecture, each with its reason; one that is no longer needed is an
offence too.

Not a list to grow: a change that adds a line here says in its commit why the rule does not fit.
"""

# A client library and the places that may import it.
HOMES: dict[str, tuple[str, ...]] = {
    # The S3 client raises aiohttp's errors; the one place that names errors has to know them.
    # app/service.py starts the server whose routes http/ makes.
    # The Python client speaks HTTP to the API, over TCP and over the unix socket.
    "aiohttp": (
        "session_service/app/service.py",
        "session_service/http/",
        "session_service/client/",
        "session_service/providers/",
        "storage/objects/s3_answers.py",
    ),
    "websockets": ("session_service/client/", "session_service/gateway/"),
    "apsw": ("session_service/registry/",),
    "sqlite3": (),
    "asyncpg": ("session_service/registry/",),
    "aioboto3": ("storage/objects/",),
    "aiobotocore": ("storage/objects/",),
    "botocore": ("storage/objects/",),
    "typer": ("session_service/cli/",),
    "rich": ("session_service/cli/",),
    "argon2": ("session_service/http/",),
}

# (module, called name): why it destroys nothing that belongs to a user.
DESTROYING: dict[tuple[str, str], str] = {
    (
        "session_service/conformance/command.py",
        "killpg",
    ): "ends or stops the client under test that the kit itself started, in a process group of its own",
    ("session_service/app/folders.py", "unlink"): "a draft of a key file of our own",
    ("session_service/app/notices.py", "kill"): "an alarm command of ours that does not end in its time",
    ("session_service/app/parent.py", "unlink"): "the parent's own note of its pid",
    (
        "session_service/app/parent.py",
        "terminate",
    ): "ends our own parts (service, host, worker), never a desktop",
    ("session_service/app/parent.py", "kill"): "ends our own parts when they do not stop, never a desktop",
    (
        "session_service/app/parent.py",
        "send_signal",
    ): "tells our own service part to read its certificate again",
    ("session_service/app/successor.py", "unlink"): "notes of ours about the program that is to come",
    ("session_service/app/successor.py", "kill"): "a look at the newer program that does not end in its time",
    ("session_service/app/service.py", "unlink"): "the socket of our own that it listens on",
    (
        "session_service/cli/stage.py",
        "terminate",
    ): "ends the service and the store that the demonstration started",
    (
        "session_service/cli/checkpoints.py",
        "rmtree",
    ): "the folder NAME.part that this command made a moment before, of a download that was cut off",
    (
        "session_service/cli/stage.py",
        "rmtree",
    ): "the demonstration's own folder, once none of its desktops is left",
    (
        "session_service/cli/stopping.py",
        "kill",
    ): "tells the parent to stop, whose start time was compared before",
    ("session_service/base/private_socket.py", "unlink"): "a stale socket of our own, replaced by a new one",
    (
        "session_service/checkpoints/homes.py",
        "rmtree",
    ): "drafts of an interrupted restore (NAME.new-*), never a home",
    (
        "session_service/checkpoints/homes.py",
        "unlink",
    ): "the half-written upload that this call made, and notes beside drafts that are gone",
    ("storage/ops/draft.py", "unlink"): "the note beside a folder that this restore has filled",
    (
        "storage/scan/extract.py",
        "unlink",
    ): "half a file that this restore has made or taken up in its own folder, and cannot finish",
    (
        "session_service/checkpoints/key_commands.py",
        "kill",
    ): "a command of ours that does not end in its time",
    ("session_service/checkpoints/keyring.py", "unlink"): "a draft of a key file of our own",
    (
        "session_service/host/control_groups.py",
        "rmdir",
    ): "control groups, which the kernel lets go only when they are empty",
    ("session_service/http/upkeep.py", "unlink"): "the copy of the registry that this request made to send",
    ("session_service/http/uploads.py", "unlink"): "the uploaded file under way that this request made",
    ("session_service/host/identity.py", "pidfd_send_signal"): "gentle signals only, to a proven identity",
    ("session_service/host/look.py", "rmtree"): "its own copy of the templates, made a moment before",
    ("session_service/registry/backups.py", "unlink"): "its own half-made backup, and what a restore left",
    (
        "storage/objects/folder.py",
        "unlink",
    ): "the store's own primitive, called by repository/removal.py, and its temporary files",
    (
        "storage/objects/probe.py",
        "delete",
    ): "objects that this probe made a moment before, below probe/, where no repository lies",
    ("storage/objects/counted.py", "delete"): "passes a delete of repository/removal.py on",
    ("storage/objects/limited.py", "delete"): "passes a delete of repository/removal.py on",
    ("storage/objects/retry.py", "delete"): "passes a delete of repository/removal.py on, and repeats it",
    ("storage/objects/versions.py", "delete_version"): "passes a delete of repository/removal.py on",
    (
        "storage/objects/s3.py",
        "delete_object",
    ): "the store's own primitive, called by repository/removal.py alone",
}

# (module, import) that a part which only thinks may have.
THINKING: dict[tuple[str, str], str] = {
    (
        "storage/format/frame.py",
        "threading",
    ): "one codec object per thread; nothing is started and nothing waits",
}

# Data classes that are written by position: the rows of a table.
BY_POSITION: dict[tuple[str, str], str] = {
    ("session_service/core/lifecycle.py", "Rule"): "a row of the transition table, read in columns",
}

# Public names with a word that the glossary gives another meaning: a name, or (module, name).
WORDS: dict[str | tuple[str, str], str] = {
    "connection_made": "asyncio's name",
    "SNAPSHOT_KIND": "index snapshot, the format's name of a cache of the log",
    "SnapshotHead": "index snapshot, the format's name of a cache of the log",
    "SnapshotObject": "index snapshot, the format's name of a cache of the log",
    "StoredSnapshot": "index snapshot, the format's name of a cache of the log",
    "index_snapshot": "index snapshot, the format's name of a cache of the log",
    "make_snapshot": "index snapshot, the format's name of a cache of the log",
    "read_snapshot": "index snapshot, the format's name of a cache of the log",
    "snapshot_at": "index snapshot, the format's name of a cache of the log",
    "snapshot_container": "index snapshot, the format's name of a cache of the log",
    "snapshot_of": "index snapshot, the format's name of a cache of the log",
    "snapshot_seq": "index snapshot, the format's name of a cache of the log",
    "write_snapshot": "index snapshot, the format's name of a cache of the log",
    "connection_lost": "asyncio's name",
    "hook": "the user's own script before a close, which the lifecycle calls the user hook",
    "HookState": "the state of the user hook",
    "hook_state": "the state of the user hook",
    "may_run_hook": "about the user hook",
    ("session_service/host/ask.py", "HOOK"): "about the user hook",
    ("session_service/host/ask.py", "HOOK_S"): "about the user hook",
    ("session_service/host/ask.py", "run_hook"): "about the user hook",
    (
        "session_service/gateway/hub.py",
        "connections",
    ): "upgraded sockets, those that carry no link yet included",
    ("session_service/providers/local.py", "RECONNECT_S_MIN"): "about its own socket to the host part",
    ("session_service/providers/local.py", "RECONNECT_S_MAX"): "about its own socket to the host part",
    "sync_folder": "fsync, as POSIX calls it",
    (
        "session_service/base/rpc.py",
        "CALLS_PER_CONNECTION_MAX",
    ): "a connection of a unix socket between our own parts",
    ("session_service/registry/connection.py", "breaks_connection"): "a database connection",
    ("session_service/registry/connection.py", "open_connection"): "a database connection",
    ("storage/format/header.py", "INDEX_SNAPSHOT"): "the name of this object in format version 1",
    ("storage/objects/s3.py", "CONNECTIONS_MAX"): "connections of the HTTP client",
}
