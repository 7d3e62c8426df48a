"""What of a log is told again in one place: by the history that a fold leaves, and by an index snapshot.

Not the state itself (`state.py`); the rest of their heads differs.
"""

from storage.format.history import HistoryRow, HistorySide
from storage.repository.state import LogState


def history_rows(state: LogState) -> list[HistoryRow]:
    """Return a row for each entry, with the fields of the checkpoints that count."""
    return [
        HistoryRow(
            row.seq,
            row.hash,
            row.kind,
            row.fence,
            row.time_ms,
            row.session,
            row.checkpoint if state.counts(row) else None,
        )
        for row in state.rows
    ]


def pin_words(state: LogState) -> list[tuple[int, int, str]]:
    """Return by whose word each pin stands: its number, that of its K, the reason."""
    return [
        (seq, at, reason)
        for seq, (at, reason) in sorted(state.pin_words.items())
        if state.pinned.get(seq, False)
    ]


def live_sides(state: LogState) -> list[HistorySide]:
    """Return the side branches that nobody forgot, by the number of their B."""
    return [HistorySide(seq, side.name, side.hash) for seq, side in sorted(state.sides.items())]
