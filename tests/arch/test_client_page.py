"""The programs that docs/client.md shows are those of docs/examples, which tests/e2e/test_client_examples.py
runs: what a reader copies has run.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_shows_the_examples_as_they_are() -> None:
    """Every block of Python is one of them, and none is left out."""
    shown = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(), re.DOTALL)
    examples = {path.name: path.read_text() for path in sorted((DOCS / "examples").glob("*.py"))}
    assert sorted(shown) == sorted(examples.values())
    runner = (Path(__file__).parents[1] / "e2e" / "test_client_examples.py").read_text()
    assert [name for name in examples if f'"{name}"' not in runner] == []
