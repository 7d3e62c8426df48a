"""The documentation of the API is the code's, word for word."""

from pathlib import Path

from session_service.http import openapi, reference
from session_service.http.facade import ControlFacade
from session_service.http.table import ROUTES

ROOT = Path(__file__).resolve().parents[3]


def test_the_document_is_what_the_code_makes() -> None:
    """If not: python -m session_service.http.reference > docs/api.md"""
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == reference.markdown()


def test_every_route_and_every_code_is_documented() -> None:
    """And every form that a route takes or gives."""
    text = reference.markdown()
    for route in ROUTES:
        assert f"### {route.method} {route.path}\n" in text
        for model in (route.body, route.answer):
            assert model is None or f"### {model.__name__}\n" in text
        for error in openapi.errors_of(route):
            assert f"| `{error.code}` |" in text


def test_control_has_every_call_that_http_makes() -> None:
    """The twin of the tests and the real one, by the same names and parameters."""
    import inspect

    from session_service.control.control import Control
    from tests.fakes.http_control import HttpControl

    for name, asked in inspect.getmembers(ControlFacade, inspect.isfunction):
        if name.startswith("_"):
            continue
        wanted = inspect.signature(asked).parameters
        for kind in (Control, HttpControl):
            given = inspect.signature(getattr(kind, name)).parameters
            assert set(wanted) == set(given), (kind, name)
            for parameter in wanted.values():
                assert given[parameter.name].kind is parameter.kind
                assert given[parameter.name].default == parameter.default
