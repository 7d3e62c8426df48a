"""Which row of a log a number means, if it counts at all."""

from storage.errors import NoSuchCheckpoint
from storage.repository.state import LogState, Row


def countable(state: LogState, seq: int) -> Row:
    """Return the row of a checkpoint or of a side branch that nobody forgot; raise NoSuchCheckpoint."""
    side = state.sides.get(seq)
    row = side.row if side is not None else state.row(seq)
    if row is None or not (side is not None or state.counts(row)):
        raise NoSuchCheckpoint(seq=seq)
    return row
