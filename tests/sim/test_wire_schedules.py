"""Seeded schedules of cuts, crashes, takeovers, copies and attacks on the real core of `continuity.v1`, and
the proof that its guards are needed: each naive variant fails.
"""

import zlib

import pytest

from session_service.core.continuity import attempts, client, serving
from session_service.core.continuity.client import Client, Phase
from session_service.core.continuity.messages import Resume
from session_service.core.continuity.ring import Ring
from session_service.core.continuity.serving import ServerStream, Standing
from tests.fakes.wire_world import World

RUNS = 60
SOAK_RUNS = 3000
MUTANT_RUNS_MAX = 150


@pytest.mark.parametrize("part", range(4))
def test_whatever_happens_bytes_and_keys_are_exact_and_nobody_is_locked_out(part: int) -> None:
    for seed in range(part * RUNS // 4, (part + 1) * RUNS // 4):
        _run(seed)


@pytest.mark.soak
def test_the_same_over_many_more_schedules() -> None:
    for seed in range(RUNS, SOAK_RUNS):
        _run(seed)


def _run(seed: int) -> None:
    world = World(seed)
    try:
        world.run()
    except Exception as error:
        error.add_note(f"seed {seed}, faults {sorted(world.kinds)}")
        raise


MUTATIONS = {
    "no challenge": {"attack", "crash"},
    "old link": {"leg", "crash"},
    "position": set[str](),
    "junk locks": {"attack"},
    "late revokes": set[str](),
    "keeps the key": {"takeover"},
    "forgotten": {"takeover"},
}


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_server_that_is_naive_in_one_way_is_caught(mutation: str) -> None:
    assert _caught(frozenset(MUTATIONS[mutation]), frozenset({mutation}), Client), mutation


class KeepsItsOffset(Client):
    """Counts on after a resync."""

    def _forget(self) -> None:
        kept = self.received
        super()._forget()
        self.received = kept


class SendsAgain(Client):
    """Gives the new stream what the old one had not acknowledged."""

    def _resumed(self, message: client.messages.Resumed, now: float) -> list[client.Act]:
        rest = b"".join(bytes(piece) for piece in self.up.since(self.up.base))
        acts = super()._resumed(message, now)
        return acts if message.replay else [*acts, *self.send(rest)]


class SendsEarly(Client):
    """Takes input before the answer is there."""

    @property
    def takes_input(self) -> bool:
        return self.phase in {Phase.OPEN, Phase.DIALLING} and self.has_key


@pytest.mark.slow
@pytest.mark.parametrize(
    "naive",
    [KeepsItsOffset, SendsAgain, SendsEarly],
    ids=lambda kind: kind.__name__,
)
def test_a_client_that_is_naive_in_one_way_is_caught(naive: type[Client]) -> None:
    assert _caught(frozenset({"crash", "leg"}), frozenset(), naive), naive.__name__


@pytest.mark.slow
def test_without_the_order_of_attempts_its_user_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late attempt displaces the newer one of the same client, which is told that it was taken over."""
    monkeypatch.setattr(attempts.Order, "admit", lambda *_, **__: None)
    monkeypatch.setattr(attempts.Order, "still", lambda *_, **__: None)
    assert _caught(frozenset(), frozenset(), Client)


@pytest.mark.slow
def test_without_the_name_of_the_stream_streams_are_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(stream: ServerStream, attempt: Resume) -> bool:
        return stream.ring.holds(attempt.received) and attempt.have <= stream.received <= attempt.end

    monkeypatch.setattr(ServerStream, "can_replay", nameless)
    assert _caught(frozenset({"crash", "leg"}), frozenset(), Client)


@pytest.mark.slow
def test_without_the_history_two_copies_splice_their_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ring, "checksum", lambda *_: 0)
    monkeypatch.setattr(ServerStream, "standing", lambda stream: Standing(taken=stream.received, checksum=0))
    assert _caught(frozenset({"copy"}), frozenset(), Client)


@pytest.mark.slow
def test_a_ring_that_is_trimmed_when_sent_loses_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(stream: ServerStream, data: bytes) -> None:
        stream.ring.append(data)
        stream.ring.forget()

    monkeypatch.setattr(ServerStream, "send", send)
    monkeypatch.setattr(Ring, "holds", lambda ring, offset: offset <= ring.end)
    assert _caught(frozenset(), frozenset(), Client)


@pytest.mark.slow
def test_without_the_release_at_the_end_of_a_replay_a_key_stays_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys go down just before a cut, and their client forgets them as it must while it is detached."""

    def receive(stream: ServerStream, data: bytes) -> bool:
        stream.received += len(data)
        stream._checksum = zlib.crc32(data, stream._checksum)
        return False

    class Forgets(World):
        def hands_off(self) -> None:
            player = self.here
            for _ in range(40):
                player.type()
            held, player.link = player.held, player.link
            if held and player.link is not None:
                player.link.cut(client=True, server=False)
            held.clear()  # the page lost its key-ups while input was refused
            super().hands_off()

    monkeypatch.setattr(serving.ServerStream, "receive", receive)
    assert _caught(frozenset(), frozenset(), Client, world=Forgets)
    monkeypatch.undo()
    assert not _caught(frozenset(), frozenset(), Client, world=Forgets, runs=10)


def _caught(
    kinds: frozenset[str],
    mutations: frozenset[str],
    naive: type[Client],
    *,
    world: type[World] = World,
    runs: int = MUTANT_RUNS_MAX,
) -> bool:
    """Say whether any of the first schedules fails, in whatever way."""
    for seed in range(runs):
        try:
            world(seed, kinds=kinds, mutations=mutations, client=naive).run()
        except Exception:  # noqa: BLE001  # a naive variant may break anything: an assertion, a refusal
            return True
    return False
