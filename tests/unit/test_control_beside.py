"""A close whose log takes nothing: what the desktop holds goes beside it, once, and nothing is ended."""

import asyncio
from types import SimpleNamespace

import pytest

from session_service.base.errors import FenceMoved, StorageRefused, StorageUnavailable
from session_service.control.beside import calls_for_it, save_beside

JAMMED = StorageRefused("chain broken", storage_code="chain_broken")


def test_only_a_log_that_will_not_take_it_calls_for_a_save_beside():
    assert calls_for_it(JAMMED)
    assert calls_for_it(FenceMoved())
    assert not calls_for_it(StorageUnavailable("away"))
    assert not calls_for_it(StorageRefused("wrong keys", storage_code="store_refused"))


@pytest.mark.parametrize(("seq", "words"), [(0, "saved whole beside it"), (7, "as conflict 7")])
async def test_its_words_say_where_it_lies_and_that_the_desktop_is_kept(seq, words):
    plans = []

    async def save(plan, progress):
        plans.append(plan)
        info = SimpleNamespace(seq=seq, side="b/2-1", unreadable=0)
        return SimpleNamespace(info=info)

    live = SimpleNamespace(
        handle=SimpleNamespace(home="/home"),
        workspace=None,
        record=SimpleNamespace(id="s", fence=2),
        saving=asyncio.Lock(),
    )
    told = await save_beside(SimpleNamespace(checkpoints=SimpleNamespace(save=save)), live, JAMMED)
    assert words in told
    assert "b/2-1" in told
    assert "The desktop is kept" in told
    [plan] = plans
    assert (plan.reason, plan.frozen, plan.final, plan.fence) == ("conflict", True, False, 2)
