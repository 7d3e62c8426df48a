"""Who gives up a replay first when all streams together keep too much."""

from session_service.gateway.rings import Rings, share_of_memory


class Stream:
    """A stream as the budget sees it."""

    def __init__(self, rings: Rings, kept: int, heard_at: float = 0.0) -> None:
        self.rings, self.kept_bytes, self.heard_at = rings, kept, heard_at
        self.fate = ""

    def end(self) -> bool:
        self.fate, self.kept_bytes = "ended", 0
        self.rings.leave(self)
        return False

    def forget(self) -> None:
        self.fate, self.kept_bytes = "forgot", 0


def test_the_oldest_detached_stream_gives_up_first_and_nobody_who_acknowledges() -> None:
    rings = Rings(bytes_max=100, quiet_s=30.0)
    old, young, quiet, busy = (Stream(rings, 30, heard_at) for heard_at in (0.0, 0.0, 1.0, 50.0))
    rings.detach(old, 0.0)
    rings.detach(young, 1.0)
    rings.count(quiet, quiet.kept_bytes, 2.0)
    assert (rings.bytes_held, rings.detached) == (90, 2)
    rings.count(busy, busy.kept_bytes, 50.0)
    assert (old.fate, young.fate, quiet.fate, busy.fate) == ("ended", "", "", "")
    busy.kept_bytes = 100
    rings.count(busy, busy.kept_bytes, 50.0)
    assert (young.fate, quiet.fate, busy.fate) == ("ended", "forgot", "")
    assert (rings.bytes_held, rings.dropped, rings.detached) == (100, 3, 0)


def test_leaving_and_coming_back_are_counted_once() -> None:
    rings = Rings(bytes_max=100, quiet_s=30.0)
    stream = Stream(rings, 40)
    rings.detach(stream, 0.0)
    rings.attach(stream)
    rings.leave(stream)
    rings.leave(stream)
    assert (rings.bytes_held, rings.detached) == (0, 0)
    assert share_of_memory(0.25) > 1 << 20
