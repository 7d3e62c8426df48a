"""Looks at a home without saving it: what is pending, and whether it still is what a checkpoint says.

`pending` goes by stat only and is for showing. The last look before a wipe goes by content: every file whose
stat facts do not prove that it was read as it is now is read again, the tree is written in memory, and its
root must come out as the checkpoint's. Nothing is stored by either.
"""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from storage.format import tree
from storage.format.keys import BoxKind, EpochKeys
from storage.format.tree import Entry
from storage.ops.content import IdsOnly
from storage.ops.gather import Gather, ignore_progress, open_home
from storage.ops.gathered import Gathered
from storage.ops.stat_cache import StatCache
from storage.ops.values import Pending
from storage.repository.index import ChunkIndex
from storage.repository.reader import Reader
from storage.repository.state import Row
from storage.repository.threads import Stop, Threads
from storage.repository.turn import Turn
from storage.scan.entry import Kind
from storage.scan.walk import walk

PATHS_NAMED_MAX: Final = 100


def count_pending(home: Path, cache: StatCache | None, stop: Stop) -> Pending:
    """Count what does not look as it was saved; what is gone counts as a file of no bytes."""
    files = size = 0
    left: dict[bytes, set[bytes]] = {}
    remembered = {b"": cache.folder(b"")} if cache is not None else {}
    root_fd = open_home(home)
    try:
        for found in walk(root_fd, repair_rights=True, stop=stop.is_set):
            parent = found.path[: -len(found.name) - 1] if found.path else b""
            known = remembered.get(parent, {}).get(found.name)
            if found.kind is Kind.FOLDER:
                if cache is not None:
                    remembered[found.path] = cache.folder(found.path)
                    left[found.path] = set(remembered[found.path])
            elif cache is None or not cache.looks_unchanged(known, found.facts):
                files += 1
                size += found.facts.size if found.kind is Kind.FILE else 0
            if found.path:
                left.get(parent, set()).discard(found.name)
    finally:
        os.close(root_fd)
    return Pending(files=files + sum(map(len, left.values())), bytes=size)


async def look_again(
    home: Path,
    row: Row,
    *,
    keys: EpochKeys,
    known: Callable[[BoxKind, bytes], bool],
    threads: Threads,
    cache: StatCache | None,
) -> tuple[Gathered, IdsOnly]:
    """Scan a home against a checkpoint, reading what its stat facts do not prove. Nothing is stored."""
    assert row.checkpoint is not None
    owner = row.checkpoint.owner
    stop = Stop()
    taker = IdsOnly(keys.chunk_id)

    def scan() -> Gathered:
        root_fd = open_home(home)
        try:
            return Gather(
                taker=taker,
                known=known,
                seed=keys.chunker_seed,
                owner=owner,
                cache=cache,
                threads=threads,
                turn=Turn(),
                stop=stop,
                progress=ignore_progress,
                exact=True,
            ).run(root_fd)
        finally:
            os.close(root_fd)

    return await threads.run(stop, scan), taker


async def differing_paths(
    reader: Reader, index: ChunkIndex, saved: Entry, found: Entry, nodes: dict[bytes, bytes]
) -> tuple[bytes, ...]:
    """Return up to 100 paths in which two trees differ; folders that are equal are passed by."""
    paths: list[bytes] = []
    if without_content(saved) != without_content(found):
        paths.append(b"")
    todo: list[tuple[bytes, Entry, Entry]] = [(b"", saved, found)]
    while todo and len(paths) < PATHS_NAMED_MAX:
        path, before, now = todo.pop()
        if before.content == now.content:
            continue
        old = {entry.name: entry async for entry in _entries(reader, index, before, {})}
        new = {entry.name: entry async for entry in _entries(reader, index, now, nodes)}
        for name in sorted(old.keys() | new.keys()):
            where = path + b"/" + name if path else name
            a, b = old.get(name), new.get(name)
            if a == b:
                continue
            if a is not None and b is not None and a.type == b.type == Kind.FOLDER:
                todo.append((where, a, b))
                if without_content(a) == without_content(b):
                    continue
            paths.append(where)
    return tuple(paths[:PATHS_NAMED_MAX])


def without_content(entry: Entry) -> tuple[object, ...]:
    """Return everything of an entry but what is in it."""
    return (
        entry.name,
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_s,
        entry.mtime_ns,
        entry.size,
        entry.extra,
    )


async def _entries(
    reader: Reader, index: ChunkIndex, folder: Entry, nodes: dict[bytes, bytes]
) -> AsyncIterator[Entry]:
    """Yield a folder's entries, from nodes in memory where they are, else from the store."""
    if folder.content is None:
        return
    todo = [tree.node_ref(folder)]
    while todo:
        node_id, level = todo.pop()
        raw = nodes.get(node_id)
        if raw is None:
            raw = await reader.chunk(index, BoxKind.META, node_id)
        if level:
            children = tree.decode_children(raw, level)
            todo += [(child.id, level - 1) for child in reversed(children)]
            continue
        for entry in tree.decode_entries(raw):
            yield entry
