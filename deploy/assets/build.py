"""Builds the folder of foreign assets that the pages use: noVNC, the font, one sprite of icons, and their
licences.

Not a bundler: files are taken as they are published, and only what is used. Every archive is fetched with
`npm pack` and compared with the sha512 that stands in packages.txt before it is opened, because npm itself
only compares it with what the registry says today. Standard library only, so that it runs before anything is
installed.

    build.py NPM DESTINATION
"""

import base64
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FETCH_TIMEOUT_S = 300
NOVNC, FONT, ICONS = "@novnc/novnc", "@fontsource-variable/atkinson-hyperlegible-next", "lucide-static"
FONT_FILES = ("latin-wght-normal.woff2", "latin-ext-wght-normal.woff2")


class AssetRefused(Exception):
    """An archive is not the one that was reviewed, or lacks something we use."""


def main() -> None:
    """Fetch, check, unpack and build; exit with one line of reason where that fails."""
    npm, destination = sys.argv[1], Path(sys.argv[2])
    try:
        with tempfile.TemporaryDirectory() as folder:
            archives = {
                name: fetch(npm, Path(folder), name, version, integrity)
                for name, version, integrity, _ in pins()
            }
            build(archives, destination)
    except (AssetRefused, subprocess.SubprocessError, OSError, tarfile.TarError) as exc:
        sys.exit(f"assets: {exc}")


def pins() -> list[tuple[str, str, str, str]]:
    """Return name, version, integrity and licence of each package, as pinned."""
    lines = (HERE / "packages.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return [(name, version, integrity, licence) for name, version, integrity, licence in rows]


def fetch(npm: str, folder: Path, name: str, version: str, integrity: str) -> Path:
    """Return the archive of one package, its bytes checked."""
    target = folder / re.sub(r"\W+", "-", name)
    target.mkdir()
    done = subprocess.run(
        [npm, "pack", "--silent", "--pack-destination", str(target), f"{name}@{version}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=FETCH_TIMEOUT_S,
        cwd=target,
    )
    archives = list(target.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise AssetRefused(f"npm could not fetch {name} {version}: {done.stderr.strip()[-400:]}")
    check(archives[0].read_bytes(), integrity, f"{name} {version}")
    print(f"fetched {name} {version}, {archives[0].stat().st_size // 1024} KiB, as pinned", flush=True)
    return archives[0]


def check(data: bytes, integrity: str, what: str) -> None:
    """Raise AssetRefused unless the bytes are those that were reviewed."""
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != integrity:
        raise AssetRefused(f"{what} is not the reviewed one: {found}")


def build(archives: dict[str, Path], destination: Path) -> None:
    """Write novnc/, fonts/, icons.svg and licences/ below the destination."""
    novnc, font, icons = read(archives[NOVNC]), read(archives[FONT]), read(archives[ICONS])
    for name, data in novnc.items():
        if name.startswith(("core/", "vendor/", "LICENSE.txt", "docs/LICENSE")):
            put(destination / "novnc" / name, data)
    for file in FONT_FILES:
        name = f"atkinson-hyperlegible-next-{file}"
        put(destination / "fonts" / name, part(font, f"files/{name}"))
    put(destination / "icons.svg", sprite(icons).encode())
    put(destination / "licences" / "novnc.txt", part(novnc, "LICENSE.txt"))
    put(destination / "licences" / "novnc-MPL-2.0.txt", part(novnc, "docs/LICENSE.MPL-2.0"))
    put(destination / "licences" / "pako.txt", part(novnc, "vendor/pako/LICENSE"))
    put(destination / "licences" / "atkinson-hyperlegible-next.txt", part(font, "LICENSE"))
    put(destination / "licences" / "lucide.txt", part(icons, "LICENSE"))


def read(archive: Path) -> dict[str, bytes]:
    """Return the plain files of a package by their name in it; links and names that lead outside are
    refused.
    """
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if member.isdir():
                continue
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is None or ".." in name.split("/") or name.startswith("/"):
                raise AssetRefused(f"{archive.name} holds {member.name}, which is no plain file")
            files[name] = stream.read()
    return files


def part(files: dict[str, bytes], name: str) -> bytes:
    """Return one file of a package."""
    if name not in files:
        raise AssetRefused(f"the package lacks {name}")
    return files[name]


def sprite(icons: dict[str, bytes]) -> str:
    """Return one SVG with a symbol for each icon in icons.txt and each glyph of our own."""
    names = [
        line
        for line in (HERE / "icons.txt").read_text(encoding="utf-8").split("\n")
        if line and line[0] != "#"
    ]
    symbols = [symbol(name, part(icons, f"icons/{name}.svg").decode()) for name in names]
    glyphs = re.findall(r"<symbol .*?</symbol>", (HERE / "glyphs.svg").read_text(encoding="utf-8"), re.DOTALL)
    note = "<!-- Icons: lucide-static, ISC licence, see licences/lucide.txt. st- and cp- are our own. -->"
    head = f'<svg xmlns="http://www.w3.org/2000/svg">\n{note}'
    return "\n".join([head, *symbols, *glyphs, "</svg>"]) + "\n"


def symbol(name: str, svg: str) -> str:
    """Return the shapes of one icon as a symbol; stroke and fill come from the style sheet."""
    inner = re.search(r"<svg\b[^>]*>(.*)</svg>", svg, re.DOTALL)
    if inner is None:
        raise AssetRefused(f"the icon {name} is no SVG")
    shapes = " ".join(line.strip() for line in inner.group(1).strip().splitlines())
    return f'<symbol id="{name}" viewBox="0 0 24 24">{shapes}</symbol>'


def put(path: Path, data: bytes) -> None:
    """Write one file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
