"""The keyboard in front of the user, told from the browser's map of its keys; in a real Chromium."""

import pytest

from tests.e2e.conftest import OpenPage
from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow
KEYS = {
    "German": ("de-DE", {"KeyY": "z", "Semicolon": "ö"}, "de"),
    "Swiss": ("de-CH", {"KeyY": "z", "Semicolon": "é"}, "ch"),
    "Czech": ("cs-CZ", {"KeyY": "z"}, "cz"),
    "French": ("fr-FR", {"KeyQ": "a", "Semicolon": "m"}, "fr"),
    "Belgian": ("nl-BE", {"KeyQ": "a"}, "be"),
    "Swedish": ("sv-SE", {"Semicolon": "ö"}, "se"),
    "Finnish": ("fi-FI", {"Semicolon": "ö"}, "fi"),
    "Norwegian": ("nb-NO", {"Semicolon": "ø"}, "no"),
    "Danish": ("da-DK", {"Semicolon": "æ"}, "dk"),
    "Spanish": ("es-ES", {"Semicolon": "ñ"}, "es"),
    "Brazilian": ("pt-BR", {"Semicolon": "ç"}, "br"),
    "British": ("en-GB", {"Backslash": "#", "Semicolon": ";"}, "gb"),
    "American": ("en-US", {"Backslash": "\\", "Semicolon": ";"}, ""),
    "an English keyboard of a German": ("de-DE", {"KeyY": "y", "Semicolon": ";"}, ""),
}


async def test_the_layout_is_what_the_keys_type_and_not_what_the_language_says(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page()
    await page.goto(service.address + "/sign-in")
    for name, (language, keys, layout) in KEYS.items():
        found = await page.evaluate(
            """async ([language, keys]) => {
                const { layoutOf } = await import("/pages/keyboard.js");
                return layoutOf((code) => keys[code] ?? "", language);
            }""",
            [language, keys],
        )
        assert found == layout, name
