"""What a scan of a home has found: plain values, between the scan and whoever saves or compares."""

from dataclasses import dataclass

from storage.format.tree import Entry
from storage.ops.stat_cache import StatCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One path of the report. grade 0 is skipped by type."""

    path: bytes
    grade: int
    error: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The result of a scan."""

    root: Entry
    entries: int
    folders: int
    content_bytes: int
    findings: tuple[Finding, ...]
    read_files: int
    cache: StatCache
    took_s: float
    again: frozenset[bytes] = frozenset()
    """Folders to be looked at by the next scan, whether or not they are told to have changed."""
    linked: frozenset[int] = frozenset()
    """Inodes with several names."""
    silent: frozenset[bytes] = frozenset()
    """Folders in which a file had changed of which no event told."""
    stale_folders: bool = False

    def count(self, grade: int) -> int:
        """Return how many findings have a grade."""
        return sum(finding.grade == grade for finding in self.findings)
