"""The pages ask nobody but us: no foreign origin, nothing inline that the content security policy would have
to allow.
"""

import re

import pytest

from tests.arch.source import read, tracked

PAGES = ("session_service/http/",)
NAMESPACES = re.compile(r"http://www\.w3\.org/[A-Za-z0-9/]+")
COMMENTS = re.compile(r"<!--.*?-->|/\*.*?\*/|^\s*//.*$", re.DOTALL | re.MULTILINE)
FOREIGN = re.compile(r"""(?:https?|wss?|ftp):(?:\\?/){2}[^\s"'`$)]|["'(=]//[A-Za-z0-9]|@import\s+url""")
INLINE = re.compile(
    r"""<script(?![^>]*\bsrc=)|\sstyle\s*=\s*["']|\son[a-z]+\s*=\s*["']|javascript:|<style\b"""
    r"""|\beval\(|new Function\("""
)
SAMPLES = [
    ("a.html", '<script src="https://cdn.example/x.js"></script>'),
    ("a.html", "<img src='//example.org/x.png'>"),
    ("a.css", "@import url(x.css)"),
    ("a.js", "fetch('https://example.org')"),
    ("a.html", "<script>alert(1)</script>"),
    ("a.html", '<p style="color:red">'),
    ("a.html", '<button onclick="f()">'),
    ("a.js", "eval(text)"),
]


def offences(path: str, text: str) -> list[str]:
    """Return what a page, style, script or picture asks of others or holds inline."""
    text = NAMESPACES.sub("", COMMENTS.sub("", text))
    found = [match.group() for match in FOREIGN.finditer(text)]
    if path.endswith((".html", ".svg", ".js")):
        found += [match.group() for match in INLINE.finditer(text)]
    return [f"{path}: {what}" for what in found]


@pytest.mark.parametrize(("path", "text"), SAMPLES)
def test_a_foreign_origin_or_inline_code_is_found(path: str, text: str) -> None:
    """The check can fail."""
    assert offences(path, text)


def test_what_is_ours_passes() -> None:
    """Namespaces and comments are no requests, and our own paths are ours."""
    assert not offences(
        "a.svg", '<svg xmlns="http://www.w3.org/2000/svg"><use href="/assets/icons.svg#x"/></svg>'
    )
    assert not offences(
        "a.js", "// see https://example.org\nimport x from './x.js'; const url = `wss://${location.host}/s`;"
    )


def test_the_pages_ask_nobody_else() -> None:
    """Every page, style, script and picture that we serve."""
    files = [
        path
        for path in tracked()
        if path.startswith(PAGES) and path.endswith((".html", ".css", ".js", ".svg"))
    ]
    assert not [offence for path in files for offence in offences(path, read(path))]
