"""Settings from environment variables: SESSION_SERVICE_HOLD__HOLD_S is `hold.hold_s`.

Not the settings themselves, and apart from them because pydantic-settings takes longer to import than a part
needs to start: only the parent reads the environment, and only where a variable of ours is set.
"""

from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, SettingsConfigDict


def read(model: type[BaseModel], *, prefix: str) -> dict[str, Any]:
    """Return what the environment sets of this model. Raises pydantic's ValidationError."""
    config = SettingsConfigDict(env_prefix=prefix, env_nested_delimiter="__", extra="forbid", frozen=True)
    kind = type("Environment", (model, BaseSettings), {"model_config": config, "__doc__": model.__doc__})
    found: dict[str, Any] = kind().model_dump(exclude_unset=True)
    return found
