"""The assets of the pages: only reviewed bytes are opened, only what is used is written."""

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "deploy" / "assets" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The script as a module; it belongs to no package."""
    spec = importlib.util.spec_from_file_location("deploy_assets_build", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path: Path, members: dict[str, bytes | str]) -> Path:
    """Write an archive as npm makes them; a text is the target of a link."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def test_bytes_other_than_the_reviewed_ones_are_refused(build: ModuleType) -> None:
    """One changed byte, and nothing of the archive is opened."""
    build.check(
        b"abc",
        "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==",
        "it",
    )
    with pytest.raises(build.AssetRefused, match="not the reviewed one"):
        build.check(
            b"abd",
            "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==",
            "it",
        )


@pytest.mark.parametrize("name", ["package/../../outside", "package//etc/passwd"])
def test_a_name_that_leads_outside_is_refused(build: ModuleType, tmp_path: Path, name: str) -> None:
    """Even a reviewed archive is read as if it were hostile."""
    with pytest.raises(build.AssetRefused):
        build.read(archive(tmp_path / "a.tgz", {name: b"x"}))


def test_a_link_is_refused(build: ModuleType, tmp_path: Path) -> None:
    """A link could point at a file of the machine."""
    with pytest.raises(build.AssetRefused):
        build.read(archive(tmp_path / "a.tgz", {"package/core/rfb.js": "/etc/passwd"}))


def test_a_missing_icon_stops_the_build(build: ModuleType) -> None:
    """A page would show an empty place instead."""
    with pytest.raises(build.AssetRefused, match=r"icons/.*\.svg"):
        build.sprite({})


def test_an_icon_becomes_a_symbol_with_its_shapes_only(build: ModuleType) -> None:
    """Colour and stroke come from the style sheet."""
    svg = '<!-- x --><svg\n  width="24"\n  stroke="red"\n>\n  <path d="M1 1" />\n  <circle r="1" />\n</svg>'
    assert (
        build.symbol("eye", svg)
        == '<symbol id="eye" viewBox="0 0 24 24"><path d="M1 1" /> <circle r="1" /></symbol>'
    )


def test_every_pin_is_whole(build: ModuleType) -> None:
    """Name, exact version, sha512, licence."""
    assert len(build.pins()) == 3
    for _, version, integrity, licence in build.pins():
        assert version[0].isdigit()
        assert integrity.startswith("sha512-")
        assert licence
