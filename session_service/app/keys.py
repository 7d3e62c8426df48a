"""Which sources of keys the settings name, for whoever opens the store: workers, doctor, `keys`.

No key is read here.
"""

from typing import TYPE_CHECKING

from session_service.base.layout import Layout
from session_service.checkpoints.key_sources import KeySources

if TYPE_CHECKING:
    from session_service.app.settings import Settings


def key_sources(settings: "Settings") -> KeySources:
    """Return the sources of this machine. Raises StorageRefused when the settings of a KMS are not whole."""
    store = settings.store
    return KeySources(
        file=store.master_key_file or Layout(settings.state_folder).keys / "master.key",
        command=store.master_key_command,
        previous_file=store.previous_master_key_file,
        previous_command=store.previous_master_key_command,
        kms_wrap=store.kms_wrap_command,
        kms_unwrap=store.kms_unwrap_command,
        kms_key=store.kms_key,
        kms_workspace_key=store.kms_workspace_key,
    )
