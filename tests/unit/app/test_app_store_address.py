"""A store's address that nothing can open is refused where the setting is read, not by each save."""

import pytest

from session_service.app.refused import ConfigurationRefused
from session_service.app.settings import load


@pytest.mark.parametrize("name", ["url", "second_url"])
def test_an_address_of_an_unknown_kind_of_store_is_refused_with_its_setting(name: str) -> None:
    with pytest.raises(ConfigurationRefused, match=rf"store\.{name}"):
        load(flags={f"store.{name}": "ftp://desk.example/checkpoints"})
