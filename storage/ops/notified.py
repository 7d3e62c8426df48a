"""The end of a scan of what changed: the remembered tree, with the folders that were looked at put into it.

The same folders come out, byte by byte, as if everything had been looked at: a folder that was passed stands
as it is remembered, one that was passed through differs in what lies on the way only. Totals are those of
the last scan, less what was there of the folders met and of those that are gone, and what is there now.
Special entries are counted anew each time: every folder that holds one is looked at each time.

Source: docs/design/0010-change-notification.md.
"""

from collections.abc import Callable, Sequence

from storage.ops.assemble import Assembled, Assembly, MetFolder, minus, sum_of
from storage.ops.entry_maker import EntryMaker
from storage.ops.folder_record import Blobs, FolderRecord, Totals
from storage.ops.route import NotifiedRoute
from storage.ops.stat_cache import StatCache
from storage.repository.packer import ChunkTaker


class NotifiedAssembly(Assembly):
    """Writes the folders of one scan into a copy of what the last one has left."""

    def __init__(
        self,
        *,
        taker: ChunkTaker,
        maker: EntryMaker,
        owner: tuple[int, int],
        start_ns: int,
        blobs: Blobs,
        base: StatCache,
        left_out: Callable[[bytes], None],
    ) -> None:
        super().__init__(taker=taker, maker=maker, owner=owner, start_ns=start_ns, blobs=blobs)
        assert base.totals is not None, "a look at what changed needs the totals of what did not"
        self._base = base
        self._entries, self._folders, self._bytes = base.totals
        self._left_out = left_out
        """Told of folders that are gone."""

    def end(self, root: MetFolder) -> Assembled:
        made = super().end(root)
        if self._met == 1 and not root.listed and made.root == self._base.root.entry:
            return Assembled(
                root=made.root,
                cache=self._base,
                entries=made.entries,
                folders=made.folders,
                content_bytes=made.content_bytes,
            )
        return made

    def _new_cache(self, root: MetFolder) -> StatCache:
        return self._base.successor()

    def _count_kept(self, folder: MetFolder, record: FolderRecord) -> None:
        """Count nothing: it is in the totals, and holds nothing special that was not looked at."""
        folder.below = record.below
        self._count_special(record.special())

    def _totals_of(
        self, folder: MetFolder, own: Totals, gone: Sequence[bytes], cache: StatCache
    ) -> Totals | None:
        """Replace in the totals what was in a folder by what is; return those of everything beneath it."""
        record = folder.record
        if record is None:
            known: Totals | None = (0, 0, 0)
        else:
            self._take_away(record.plain)
            there = self._gone(folder, gone, cache)
            known = minus(record.below, [record.plain, folder.below_before, *there])
        return None if known is None else sum_of(own, [known, folder.below])

    def _gone(self, folder: MetFolder, gone: Sequence[bytes], cache: StatCache) -> list[Totals | None]:
        """Drop what lay beneath subfolders that are not there any more; return their totals."""
        found: list[Totals | None] = []
        for name in gone:
            path = folder.path + b"/" + name if folder.path else name
            parts = list(self._base.below(path))
            for where, part in parts:
                self._take_away(part.plain)
                cache.drop(where)
            self._left_out(path)
            found.append(parts[0][1].below if parts else None)
        return found

    def _take_away(self, own: Totals) -> None:
        self._entries -= own[0]
        self._folders -= own[1]
        self._bytes -= own[2]


def assembly_for(
    route: NotifiedRoute | None,
    cache: StatCache | None,
    *,
    taker: ChunkTaker,
    maker: EntryMaker,
    owner: tuple[int, int],
    start_ns: int,
    blobs: Blobs,
) -> Assembly:
    """Return what ends a scan on this route through what is remembered; None is a scan of everything."""
    if route is None or route.full:
        return Assembly(taker=taker, maker=maker, owner=owner, start_ns=start_ns, blobs=blobs)
    assert cache is not None, "a route leads through what is remembered"
    return NotifiedAssembly(
        taker=taker,
        maker=maker,
        owner=owner,
        start_ns=start_ns,
        blobs=blobs,
        base=cache,
        left_out=route.left_out,
    )
