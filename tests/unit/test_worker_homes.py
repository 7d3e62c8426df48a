"""What the storage worker may be told to read and write: the one home of its workspace and fence."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from session_service.base import errors, rpc
from session_service.base.layout import Layout
from session_service.checkpoints import messages
from session_service.checkpoints.key_sources import KeySources
from session_service.checkpoints.worker import Worker, WorkerSettings
from session_service.ports.checkpoints import SavePlan, WorkspaceName

MINE = WorkspaceName(tenant_id="01J0000000000000000000000T", workspace_id="01J0000000000000000000000A")
OTHER_ID = "01J0000000000000000000000B"
SESSION = "01J0000000000000000000000S"
FENCE = 7


def worker(root: Path) -> Worker:
    """One that reaches no store: a refusal comes before it is asked for."""
    return Worker(
        WorkerSettings(
            layout=Layout(root),
            number=0,
            store_url=f"file://{root}/nothing",
            own_store=False,
            credentials_file=None,
            keys=KeySources(file=root / "no.key"),
            service_uid=os.geteuid(),
            service_gid=os.getegid(),
        )
    )


def asked(call: str, home: str) -> Any:
    """The parameters of a call about a home, under our fence where it takes one."""
    if call == "save":
        plan = SavePlan(
            workspace=MINE, session_id=SESSION, fence=FENCE, home=home, reason="final", frozen=True
        )
        return messages.Save(plan=plan)
    if call == "pending":
        return messages.Pending(workspace=MINE, home=home)
    if call == "upload":
        return messages.Upload(workspace=MINE, home=home, name="a", source="/uploads/a", owner=None)
    return messages.Look(workspace=MINE, session_id=SESSION, fence=FENCE, seq=1, hash=bytes(32), home=home)


def homes_of_others(root: Path, call: str) -> list[str]:
    """Paths that are not the home of this workspace and fence."""
    layout = Layout(root)
    mine = str(layout.home(MINE.workspace_id, FENCE))
    found = [
        str(layout.home(OTHER_ID, FENCE)),
        f"{mine}/",
        f"{mine}/../{FENCE}",
        f"{mine}.new-1234",
        f"{layout.homes}/{MINE.workspace_id}/{FENCE}",
        str(layout.homes),
        "/etc",
        "",
    ]
    if call not in ("pending", "upload"):
        found.append(str(layout.home(MINE.workspace_id, FENCE + 1)))
    return found


@pytest.mark.parametrize("call", ["save", "pending", "prove", "last_look", "upload"])
async def test_a_call_about_another_home_is_refused(call: str, tmp_path: Path) -> None:
    """Another workspace's, another fence's, or what only looks like ours."""
    handler = worker(tmp_path).handlers()[call]

    async def nobody(value: Any) -> None:
        raise AssertionError(value)

    for home in homes_of_others(tmp_path, call):
        body = msgspec.Raw(msgspec.msgpack.encode(asked(call, home)))
        with pytest.raises(errors.BadInput, match="not the home"):
            await handler(rpc.Call(body, nobody, 0))


@pytest.mark.parametrize("call", ["save", "pending", "prove", "last_look", "upload"])
async def test_a_call_about_the_right_home_goes_on(call: str, tmp_path: Path) -> None:
    """It then fails for want of a store, or of the upload."""
    handler = worker(tmp_path).handlers()[call]

    async def nobody(value: Any) -> None:
        raise AssertionError(value)

    home = str(Layout(tmp_path).home(MINE.workspace_id, FENCE))
    with pytest.raises(errors.SessionError) as failed:
        await handler(rpc.Call(msgspec.Raw(msgspec.msgpack.encode(asked(call, home))), nobody, 0))
    assert "not the home" not in str(failed.value)


def test_no_call_writes_where_it_is_told_to(tmp_path: Path) -> None:
    """A restore goes into the home of a workspace and fence, and nowhere else."""
    assert not [name for name in worker(tmp_path).handlers() if name.startswith("restore")]
