"""What people are told when `storage` refuses: a sentence, with the code and facts that operators need."""

import storage
from session_service.base import errors
from session_service.base.errors import by_code
from session_service.checkpoints import translate
from session_service.checkpoints.key_commands import CommandFailed


def test_an_error_of_the_storage_is_told_as_a_sentence() -> None:
    told = translate.error(storage.KeysChanged(seq=10))
    assert isinstance(told, errors.StorageUnavailable)
    assert told.detail.startswith("The repository has a newer key epoch than this process opened;")
    assert told.detail.endswith("(keys_changed: seq=10)")


def test_a_path_that_is_not_there_is_told_by_its_name() -> None:
    told = translate.error(storage.PathMissing(path=b"notes\xff.txt"))
    assert isinstance(told, errors.NotFound)
    assert told.detail == r"The checkpoint has no such path, or it is of another kind. (notes\xff.txt)"


def test_an_error_that_came_from_another_process_says_what_to_do_about_its_own_kind() -> None:
    """A special case shares the code of its kind; what to do about it is not what to do about all of them."""
    assert by_code(CommandFailed.code) is errors.StorageUnavailable
    assert by_code("hold_expired") is errors.HoldExpired
    assert by_code("never_heard_of") is errors.PartRefused
