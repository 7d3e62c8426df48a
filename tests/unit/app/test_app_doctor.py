"""What the doctor says of the object store, from what the service tells of it."""

from session_service.app.doctor import store_findings
from session_service.client.models import Storage, StoreCheck


def shown(*checks: StoreCheck, usable: bool = True) -> Storage:
    return Storage(
        usable=usable,
        error="" if usable else "16 of 16 creates of one name succeeded",
        url="s3://desks",
        key_id="k",
        key_backed_up=True,
        checks=list(checks),
    )


def check(name: str, *, passed: bool = True, needed: bool = True, words: str = "as it must be") -> StoreCheck:
    return StoreCheck(name=name, passed=passed, needed=needed, words=words)


def test_every_promise_that_the_store_was_seen_to_keep_is_named() -> None:
    [found] = store_findings(
        shown(check("create_only"), check("create_race"), check("multipart", needed=False))
    )
    assert found.ok
    assert found.words == "s3://desks keeps its promises: create_only, create_race, multipart"


def test_what_nothing_relies_on_is_told_and_is_no_failure() -> None:
    found = store_findings(
        shown(check("create_only"), check("if_match", passed=False, needed=False, words="it is ignored"))
    )
    assert [(one.name, one.ok) for one in found] == [("object_store", True), ("store_if_match", True)]
    assert found[1].words == "it is ignored; nothing here relies on it"


def test_a_store_that_takes_a_wrong_secret_is_a_failure_of_whoever_lets_others_reach_it() -> None:
    found = store_findings(shown(check("wrong_secret", passed=False, needed=False, words="it was accepted")))
    assert not found[1].ok
    assert found[1].action


def test_a_store_that_cannot_be_used_says_why() -> None:
    [found] = store_findings(shown(check("create_race", passed=False), usable=False))
    assert not found.ok
    assert "16 of 16" in found.words
