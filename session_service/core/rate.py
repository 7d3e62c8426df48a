"""How fast a save or a restore moves, and how long it will still take: from what it told of itself.

Pure. Seconds left are said only where a total is known and some of it was done; a guess from nothing would be
worse than no number. The speed is that of the last seconds, so a stalled line shows.
"""

from dataclasses import dataclass
from typing import Final

WINDOW_MS: Final = 8_000
"""Of the speed: long enough for a pack of 16 MiB on a slow line, short enough to show a stall."""
SAMPLES_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What was told of one stage, newest last: (at_ms, done)."""

    stage: str = ""
    unit: str = ""
    total: int | None = None
    samples: tuple[tuple[int, int], ...] = ()

    @property
    def per_s(self) -> float | None:
        """Return units by second; None until two moments are known."""
        if len(self.samples) < 2:
            return None
        (began_ms, began), (ended_ms, ended) = self.samples[0], self.samples[-1]
        if ended_ms <= began_ms:
            return None
        return max(0, ended - began) * 1_000 / (ended_ms - began_ms)

    @property
    def left_s(self) -> float | None:
        """Return the seconds that are left at this speed; None where nobody can know."""
        speed = self.per_s
        if self.total is None or not self.samples or not speed:
            return None
        return max(0, self.total - self.samples[-1][1]) / speed


def told(rate: Rate, *, stage: str, unit: str, done: int, total: int | None, at_ms: int) -> Rate:
    """Return the rate with one more word of progress. Another stage, or less done, begins anew."""
    same = (stage, unit) == (rate.stage, rate.unit)
    if not same or (rate.samples and done < rate.samples[-1][1]):
        return Rate(stage=stage, unit=unit, total=total, samples=((at_ms, done),))
    kept = [one for one in rate.samples if one[0] >= at_ms - WINDOW_MS] or list(rate.samples[-1:])
    samples = (*kept, (at_ms, done))
    if len(samples) > SAMPLES_MAX:
        samples = (samples[0], *samples[-SAMPLES_MAX + 1 :])
    return Rate(stage=stage, unit=unit, total=total, samples=samples)
