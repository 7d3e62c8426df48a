"""A download of saved files as it becomes a folder of this machine, and words for what may go wrong there.

What makes the files is storage's own extractor, not a program that the machine happens to have. It blocks for
the disk, so each piece goes through a thread; the next is fetched when it is written.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import storage
from session_service.base import errors
from session_service.checkpoints import translate
from session_service.client import models


class FolderRefused(errors.SessionError):
    """The folder that files are restored into does not take one of them."""

    code, status = "folder_refused", 500
    action = (
        "Correct what is named, or restore into a folder of another disk; the half-made one may be removed."
    )


class ArchiveRefused(errors.SessionError):
    """What came is no archive that this service makes, or one that would write outside its folder."""

    code, status = "archive_refused", 502
    action = "Nothing outside the folder was touched. Look at what answers in the service's place; try again."


async def unpacked(
    pieces: AsyncIterator[bytes], into: Path, seen: Callable[[bytes], None]
) -> storage.Unpacked:
    """Make what a tar holds in a new folder. Whatever fails leaves there what was made until then.

    Args:
        pieces: of the tar, as they come.
        seen: told each piece that was written.
    """
    with _told(into), storage.unpacking(into) as unpacker:
        async for piece in pieces:
            await asyncio.to_thread(unpacker.feed, piece)
            seen(piece)
        return await asyncio.to_thread(unpacker.finish)


def not_made(made: storage.Unpacked) -> list[str]:
    """Return the paths of what was not made again, as text."""
    return [translate.path(one.path) for one in made.not_made]


def differs(made: storage.Unpacked) -> list[models.Differs]:
    """Return what is not quite as it was saved, as text."""
    return [models.Differs(path=translate.path(one.path), what=one.grade) for one in made.differences]


@contextmanager
def _told(into: Path) -> Iterator[None]:
    """Raise our errors instead of storage's."""
    try:
        yield
    except storage.TargetFull as exc:
        raise errors.NoRoom(f"There is no room left for {into}.", folder=str(into)) from exc
    except (storage.HostileTree, storage.FormatError) as exc:
        rule = str(exc.facts.get("rule", exc.code))
        raise ArchiveRefused(f"The archive was refused: {rule}{_where(exc)}.", folder=str(into)) from exc
    except storage.RestoreError as exc:
        number = exc.facts.get("errno")
        why = os.strerror(number) if isinstance(number, int) else exc.code
        raise FolderRefused(f"{into} does not take what is restored: {why}{_where(exc)}.") from exc


def _where(exc: storage.StorageError) -> str:
    path = exc.facts.get("path")
    return f", at {translate.path(path)}" if isinstance(path, bytes) and path else ""
