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
from storage.ops.folder_record import FolderRecord, Made, Totals, is_folder, is_special
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
        base: StatCache,
        left_out: Callable[[bytes], None],
    ) -> None:
        super().__init__(taker=taker, maker=maker, owner=owner, start_ns=start_ns)
        self._base = base
        self._left_out = left_out
        """Told of folders that are gone."""

    def write(self, met: Sequence[MetFolder]) -> Assembled:
        assert self._base.totals is not None, "a look at what changed needs the totals of what did not"
        self._entries, self._folders, self._bytes = self._base.totals
        made = super().write(met)
        if len(met) == 1 and not met[0].listed and made.root == self._base.root.entry:
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

    def _items(self, folder: MetFolder, children: Sequence[Made]) -> list[Made]:
        record = folder.record
        if folder.listed or record is None:
            return super()._items(folder, children)
        items = {made[0][0]: made for made in record.all_made()}
        items |= {child[0][0]: child for child in children}
        return list(items.values())

    def _count_kept(self, folder: MetFolder, record: FolderRecord) -> None:
        """Count nothing: it is in the totals, and holds nothing special that was not looked at."""
        folder.below = record.below
        self._count_special([made for made in record.all_made() if is_special(made[0])])

    def _totals_of(self, folder: MetFolder, items: Sequence[Made], cache: StatCache) -> Totals | None:
        """Replace in the totals what was in a folder by what is; return those of everything beneath it."""
        plain = [made for made in items if not is_special(made[0])]
        now = self._count(plain)
        self._count_special([made for made in items if is_special(made[0])])
        record = folder.record
        gone = self._gone(folder, record, items, cache) if record is not None else ()
        if record is None:
            known: Totals | None = (0, 0, 0)
        else:
            before = _own(record)
            self._take_away(before)
            beneath = [child.record.below for child in folder.children if child.record is not None]
            known = minus(record.below, [before, *beneath, *gone])
        if len(plain) < len(items) or known is None:
            return None
        return sum_of(now, [known, *(child.below for child in folder.children)])

    def _gone(
        self, folder: MetFolder, record: FolderRecord, items: Sequence[Made], cache: StatCache
    ) -> list[Totals | None]:
        """Drop what lay beneath subfolders that are not there any more; return their totals."""
        if not folder.listed:
            return []
        there = {row[0] for row, raw in items if is_folder(row, raw)}
        gone: list[Totals | None] = []
        for row, raw in record.all_made():
            if row[0] in there or not is_folder(row, raw):
                continue
            path = folder.path + b"/" + row[0] if folder.path else row[0]
            parts = list(self._base.below(path))
            for where, part in parts:
                self._take_away(_own(part))
                cache.drop(where)
            self._left_out(path)
            gone.append(parts[0][1].below if parts else None)
        return gone

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
) -> Assembly:
    """Return what ends a scan on this route through what is remembered; None is a scan of everything."""
    if route is None or route.full:
        return Assembly(taker=taker, maker=maker, owner=owner, start_ns=start_ns)
    assert cache is not None, "a route leads through what is remembered"
    return NotifiedAssembly(
        taker=taker, maker=maker, owner=owner, start_ns=start_ns, base=cache, left_out=route.left_out
    )


def _own(record: FolderRecord) -> Totals:
    """Return the totals of the entries of a folder that are not special."""
    plain = [made for made in record.all_made() if not is_special(made[0])]
    return len(plain), sum(is_folder(row, raw) for row, raw in plain), sum(row[5] for row, _ in plain)
