"""The one error of settings: named apart, so that a part can tell of it without the library of settings."""

from session_service.base import errors


class ConfigurationRefused(errors.SessionError):
    """A setting is unknown or has a value that cannot be used."""

    code, status, action = "configuration_refused", 500, "Correct the setting that is named and start again."
