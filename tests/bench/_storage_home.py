"""A home folder made from a seed, and what a day and a minute change in it.

Same seed, same names, bytes and times. At full size about 1 GiB in 19,000 files: sources, configuration, git
objects, a browser cache, logs, photos, documents, mail, databases, a disk image, a video, an archive. Sizes
and kinds are like those of real homes; nothing else about it is real.
"""

import hashlib
import os
import random
import sqlite3
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
BEGAN_S = 1_700_000_000
DATABASES = (
    ("places", 60_000, 0),
    ("cookies", 9_000, 0),
    ("icons", 2_200, 4_000),
    ("idb1", 1_500, 9_000),
    ("idb2", 900, 16_000),
    ("history", 40_000, 0),
    ("forms", 3_000, 0),
    ("store", 5_000, 900),
)
PROFILE = ".mozilla/firefox/profile"


class SeededHome:
    """Writes one home. `scale` is the share of the full size."""

    def __init__(self, root: Path, *, seed: int, scale: float = 1.0) -> None:
        self.root = root
        self._random = random.Random(seed)
        self._scale = scale
        letters = random.Random(99)
        self._words = [
            "".join(
                letters.choice("bcdfgklmnprstvz") + letters.choice("aeiou")
                for _ in range(letters.randint(1, 4))
            )
            for _ in range(4_000)
        ]
        weights = [1 / (at + 8) ** 0.9 for at in range(4_000)]
        self._pool = " ".join(letters.choices(self._words, weights, k=400_000))

    def make(self) -> None:
        """Write everything."""
        self._small_files()
        self._middling_files()
        self._databases()
        self._large_files()
        for number in range(self._count(60)):
            (self.root / f"Empty/folder{number}").mkdir(parents=True, exist_ok=True)
        links = self.root / ".config/links"
        links.mkdir(parents=True, exist_ok=True)
        for number in range(self._count(200)):
            (links / f"link{number}").symlink_to(f"../../src/project{number % 12}")

    def make_one(self) -> None:
        """One file of about 400 MB: parts that shrink, parts that do not, parts that are zero."""
        self._fill("disk.img", 384, self._piece_of_image)

    def change_the_middle(self) -> None:
        """4 KiB in the middle of the one file are other ones, and 100 bytes come before them."""
        path = self.root / "disk.img"
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + self._random.randbytes(4_196) + data[middle + 4_096 :])

    def change_a_day(self) -> None:
        """About one per cent: logs grow, an image and a video change, a folder moves, sources change."""
        draw = self._random
        for path in self._some(".local/state/log", 12):
            self._append(path, self._log(int(120_000 * self._scale) + 100))
        with open(self.root / "VMs/disk.img", "r+b") as image:
            size = image.seek(0, os.SEEK_END)
            for length in [4_096] * 24 + [int(1.5 * MIB * self._scale) + 1]:
                image.seek(draw.randrange(max(1, size - length)) & ~4_095)
                image.write(draw.randbytes(length))
        video = self.root / "Videos/talk.mp4"
        video.write_bytes(draw.randbytes(1_500) + video.read_bytes())
        folder = min((self.root / "Pictures").iterdir())
        folder.rename(folder.with_name(folder.name + "-trip"))
        chosen = self._some("src", max(9, int(450 * self._scale)), suffixes=(".py", ".js", ".md"))
        third = len(chosen) // 3
        for path in chosen[:third]:
            os.utime(path)
        for path in chosen[third : 2 * third]:
            self._edit(path, 120)
        for path in chosen[2 * third :]:
            path.unlink()
        for number in range(third):
            self._put(
                f"src/project{number % 12}/new/{self._word()}{number}.py",
                self._text(self._size(3_200, 1.2, 200_000)),
            )
        self._put("Pictures/new/one.jpg", draw.randbytes(int(2.2 * MIB * max(self._scale, 0.1))))
        for name in ("places", "cookies", "store"):
            self._insert(name, updates=150, inserts=120)

    def change_a_minute(self) -> None:
        """About 100 kB: three logs, five edits, two notes, fifteen rows."""
        for path in self._some(".local/state/log", 3):
            self._append(path, self._log(10_000))
        for path in self._some("src/project3", 5, suffixes=(".py", ".js", ".md")):
            self._edit(path, 90)
        for number in range(2):
            self._put(f"Documents/notes/{self._word()}{number}.md", self._text(4_000))
        self._insert("places", updates=0, inserts=15)

    def _small_files(self) -> None:
        draw, word = self._random, self._word
        for number in range(self._count(11_500)):
            part = "node_modules" if number % 3 else "src"
            where = f"src/project{number % 12}/{part}/{self._words[number * 7 % 160]}"
            suffix = draw.choice(("py", "js", "ts", "c", "md", "json", "html"))
            self._put(f"{where}/{word()}_{number}.{suffix}", self._text(self._size(3_200, 1.25, 400_000)))
        for number in range(self._count(3_000)):
            where = f".config/{self._words[number % 90]}"
            self._put(f"{where}/{word()}{number}.conf", self._text(self._size(500, 1.0, 20_000)))
        for number in range(self._count(2_500)):
            name = f"{draw.getrandbits(160):040x}"
            packed = zlib.compress(self._text(self._size(2_500, 1.1, 90_000)), 1)
            self._put(f"src/project{number % 12}/.git/objects/{name[:2]}/{name[2:]}", packed)
        for number in range(self._count(1_500)):
            size = self._size(16_000, 1.2, 800_000)
            self._put(
                f".cache/browser/{number:05x}", draw.randbytes(size) if number % 3 else self._text(size)
            )

    def _middling_files(self) -> None:
        draw = self._random
        for number in range(self._count(40)):
            self._put(f".local/state/log/{self._word()}{number}.log", self._log(self._count(1_500_000)))
        for number in range(self._count(110)):
            self._put(
                f"Pictures/{2020 + number % 5}/{number:05}.jpg", draw.randbytes(draw.randint(MIB, 3 * MIB))
            )
        for number in range(self._count(300)):
            name = f"Documents/{self._words[number % 25]}/{self._word()}{number}.docx"
            self._put(name, draw.randbytes(self._size(120_000, 1.0, 2 * MIB)))

    def _databases(self) -> None:
        folder = self.root / PROFILE
        folder.mkdir(parents=True)
        for name, rows, blob in DATABASES:
            base = sqlite3.connect(folder / f"{name}.sqlite")
            base.execute(f"pragma page_size={32_768 if blob else 4_096}")
            base.execute("create table t (id integer primary key, url text, title text, n int, b blob)")
            base.execute("create index i on t (url)")
            base.executemany(
                "insert into t values (null, ?, ?, 0, ?)", (self._row(blob) for _ in range(self._count(rows)))
            )
            base.commit()
            base.close()

    def _large_files(self) -> None:
        draw = self._random
        self._fill(".thunderbird/profile/Mail/Inbox", 50, self._mail)
        self._fill("VMs/disk.img", 170, self._piece_of_image)
        self._fill("Videos/talk.mp4", 115, lambda: draw.randbytes(MIB))
        self._fill("Documents/data/export.csv", 70, self._table_rows)
        self._fill("Downloads/distribution.tar.xz", 55, lambda: draw.randbytes(MIB))

    def _mail(self) -> bytes:
        return b"From - x\n" + self._text(3_000) + self._random.randbytes(900)

    def _piece_of_image(self) -> bytes:
        kind = self._random.randrange(3)
        return (bytes(MIB), self._random.randbytes(MIB), self._text(65_536) * 8)[kind]

    def _table_rows(self) -> bytes:
        draw = self._random
        rows = (f"{draw.random():.6f},{self._word()},{draw.getrandbits(40):x}\n" for _ in range(2_000))
        return "".join(rows).encode()

    def _fill(self, name: str, mib: int, piece: Callable[[], bytes]) -> None:
        size = self._count(mib * MIB)
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as out:
            while out.tell() < size:
                out.write(piece()[: size - out.tell()])

    def _put(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        at_s = BEGAN_S + self._random.randrange(3_000_000)
        os.utime(path, ns=(at_s * 10**9, at_s * 10**9 + 123_456_789))

    def _append(self, path: Path, data: bytes) -> None:
        with open(path, "ab") as out:
            out.write(data)

    def _edit(self, path: Path, count: int) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + self._text(count) + data[len(data) // 2 :])

    def _insert(self, name: str, *, updates: int, inserts: int) -> None:
        base = sqlite3.connect(self.root / PROFILE / f"{name}.sqlite")
        [(most,)] = base.execute("select max(id) from t")
        rows = ((self._word(), self._random.randrange(most)) for _ in range(updates))
        base.executemany("update t set n = n + 1, title = ? where id = ?", rows)
        base.executemany("insert into t values (null, ?, ?, 1, ?)", (self._row(0) for _ in range(inserts)))
        base.commit()
        base.close()

    def _some(self, folder: str, count: int, suffixes: tuple[str, ...] = (".log",)) -> list[Path]:
        found = sorted(path for path in (self.root / folder).rglob("*") if path.suffix in suffixes)
        return self._random.sample(found, min(count, len(found)))

    def _row(self, blob: int) -> tuple[str, str, bytes | None]:
        url = f"https://{self._word()}.example/{self._word()}/{self._random.getrandbits(44):x}"
        return (
            url,
            self._pool[self._random.randrange(9**5) :][:60],
            self._random.randbytes(blob) if blob else None,
        )

    def _count(self, full: int) -> int:
        return max(1, int(full * self._scale))

    def _word(self) -> str:
        return self._random.choice(self._words)

    def _size(self, median: int, spread: float, most: int) -> int:
        return int(min(most, max(1, self._random.lognormvariate(0, spread) * median)))

    def _text(self, size: int) -> bytes:
        lines: list[str] = []
        length = 0
        while length < size:
            at = self._random.randrange(len(self._pool) - 400)
            line = self._pool[at : at + self._random.randint(20, 90)] + ";\n"
            if self._random.random() < 0.15:
                line = " ".join(self._random.choices(self._words, k=24)) + "\n"
            lines.append(line)
            length += len(line)
        return "".join(lines)[:size].encode()

    def _log(self, size: int) -> bytes:
        lines: list[str] = []
        length = 0
        while length < size:
            draw = self._random
            line = f"host app[{draw.randint(100, 999)}]: req={draw.getrandbits(48):012x} "
            line += f"path=/{self._word()} ms={draw.randint(1, 900)}\n"
            lines.append(line)
            length += len(line)
        return "".join(lines)[:size].encode()


def picture(root: Path) -> str:
    """Return a digest of names, types, modes, times of files, and contents."""
    made = hashlib.blake2b()
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        made.update(f"{path.relative_to(root)} {found.st_mode}".encode())
        if path.is_symlink():
            made.update(os.readlink(path).encode())
        elif path.is_file():
            made.update(str(found.st_mtime_ns).encode() + hashlib.blake2b(path.read_bytes()).digest())
    return made.hexdigest()


def main() -> None:
    """Run `_storage_home.py make|one|day|middle|minute|picture FOLDER SEED SCALE`, a process of its own."""
    what, folder, seed, scale = sys.argv[1:]
    home = SeededHome(Path(folder), seed=int(seed), scale=float(scale))
    if what == "picture":
        print(picture(home.root))
    else:
        acts = {
            "make": home.make,
            "one": home.make_one,
            "day": home.change_a_day,
            "middle": home.change_the_middle,
            "minute": home.change_a_minute,
        }
        acts[what]()


if __name__ == "__main__":
    main()
