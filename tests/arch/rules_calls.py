"""Rules about what a module may call or import: who thinks, who destroys, who starts tasks, who speaks to the
outside.

Not the layers: those are contracts of import-linter in pyproject.toml. Exceptions stand in allowances.py with
their reasons.
"""

import ast
import re
from collections.abc import Iterator

from tests.arch.allowances import DESTROYING, HOMES, THINKING
from tests.arch.source import Module, at, calls, dotted, imports

PURE = ("session_service/core", "storage/format")
CONTROL = "session_service/control"
IMPURE_MODULES = frozenset(
    {"time", "random", "secrets", "logging", "structlog", "socket", "threading", "subprocess", "asyncio"}
)
UNSTEADY_MODULES = frozenset(
    {"time", "random", "secrets", "socket", "threading", "concurrent", "subprocess", "multiprocessing"}
)
IMPURE_CALLS = re.compile(
    r"(^|\.)(datetime\.(now|utcnow|today)|date\.today|os\.(urandom|getrandom)|uuid\.uuid[14])$|^(print|open|input|os\.open|io\.open)$"
)
DESTROYERS = frozenset({"session_service/host/destroy.py", "storage/repository/removal.py"})
ENDING = {"kill", "killpg", "pidfd_send_signal", "send_signal", "terminate"}
WIPING = {"rmtree", "unlink", "rmdir", "removedirs", "renames", "delete_object", "delete_objects"}
KILL_FILE = "cgroup.kill"
"""Writing to this file of the kernel ends a whole group."""
SHELL_CALL = re.compile(r"(^|\.)(create_subprocess_shell|getoutput|getstatusoutput)$|^os\.(system|popen)$")
FREE_TASK = re.compile(
    r"^asyncio\.(create_task|ensure_future)$|(^|\.|_)loop\.create_task$|\?\.create_task$|^ensure_future$|^create_task$"
)


def the_core_only_thinks(module: Module) -> Iterator[str]:
    """No await, clock, randomness, logging or I/O in the core and the format: time, nonces and bytes are
    arguments.
    """
    if not module.within(*PURE):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)):
            yield at(module, node, "waits")
    for node, name in imports(module):
        impure = name.partition(".")[0] in IMPURE_MODULES or name == "session_service.base.log"
        if impure and (module.path, name) not in THINKING:
            yield at(module, node, f"imports {name}")
    for call, name in calls(module):
        if IMPURE_CALLS.search(name):
            yield at(module, call, f"calls {name}")


def control_is_steady(module: Module) -> Iterator[str]:
    """Control has no thread, socket or randomness of its own, so that it runs on a deterministic loop in a
    test.
    """
    if not module.within(CONTROL):
        return
    for node, name in imports(module):
        if name.partition(".")[0] in UNSTEADY_MODULES:
            yield at(module, node, f"imports {name}")
    for call, name in calls(module):
        if IMPURE_CALLS.search(name):
            yield at(module, call, f"calls {name}")


def one_place_destroys(module: Module) -> Iterator[str]:
    """Ending a process, wiping a folder and deleting an object need proof, and stand in one module of each
    package.
    """
    if module.path in DESTROYERS:
        return
    for node, name in destroying(module):
        if (module.path, name.rpartition(".")[2]) not in DESTROYING:
            yield at(
                module, node, f"{name}; if it is our own temporary file, say so in tests/arch/allowances.py"
            )


def destroying(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Yield each mention of what destroys: also one that is handed to a thread to be called there."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = dotted(node)
            last = name.rpartition(".")[2]
            of_object = (
                last in ("delete", "delete_version") and module.path.startswith("storage/") and "." in name
            )
            if last in ENDING | WIPING or name == "os.remove" or of_object:
                yield node, name
        elif isinstance(node, ast.Constant) and node.value == KILL_FILE:
            yield node, KILL_FILE


def tasks_have_owners(module: Module) -> Iterator[str]:
    """Only base/aio.py starts a task outside of a TaskGroup."""
    if module.path == "session_service/base/aio.py":
        return
    for call, name in calls(module):
        if FREE_TASK.search(name):
            yield at(module, call, f"calls {name}; use a TaskGroup or base.aio")


def no_shell_reads_arguments(module: Module) -> Iterator[str]:
    """Programs are started with a list of arguments."""
    for call, name in calls(module):
        shell = any(word.arg == "shell" and not _is_false(word.value) for word in call.keywords)
        if shell or SHELL_CALL.search(name):
            yield at(module, call, f"{name} goes through a shell")


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def libraries_have_one_home(module: Module) -> Iterator[str]:
    """A client library is imported where the adapter for it lives, and nowhere else."""
    for node, name in imports(module):
        library = name.partition(".")[0]
        if library in HOMES and not any(module.path.startswith(home) for home in HOMES[library]):
            yield at(module, node, f"imports {library}, whose home is {' and '.join(HOMES[library])}")


def storage_has_a_front_door(module: Module) -> Iterator[str]:
    """Storage is entered through `import storage` only, and knows nothing of sessions."""
    for node, name in imports(module):
        if module.path.startswith("session_service/") and isinstance(node, ast.ImportFrom) and node.module:
            name = node.module
        if module.path.startswith("session_service/") and name.startswith("storage."):
            yield at(module, node, f"imports {name} past the front door")
        if module.path.startswith("storage/") and name.partition(".")[0] == "session_service":
            yield at(module, node, f"imports {name}")
