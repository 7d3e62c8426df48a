"""The house rules, one test each, over the whole product; and a bad sample for each, so that no rule is
empty.
"""

from collections.abc import Callable

import pytest

from tests.arch import rules_calls, rules_shape, rules_words
from tests.arch.allowances import DESTROYING, WORDS
from tests.arch.source import Rule, broken, parse, product

LONG_FUNCTION = "def long():\n" + "    x = 1\n" * 71
LONG_FILE = "x = 1\n" * 601
TASK = "asyncio.create_" + "task(work())"

# A rule, where the sample is said to lie, and code that breaks it. Every rule stands here at least once.
SAMPLES: list[tuple[Rule, str, str]] = [
    (rules_shape.module_says_what_it_is, "session_service/app/x.py", "x = 1"),
    (rules_shape.packages_are_empty, "session_service/app/__init__.py", '"""Text."""'),
    (rules_shape.packages_are_empty, "storage/ops/__init__.py", "import os"),
    (rules_shape.modules_have_nouns_for_names, "session_service/app/utils.py", "x = 1"),
    (rules_shape.modules_have_nouns_for_names, "session_service/helpers/x.py", "x = 1"),
    (rules_shape.files_stay_short, "storage/x.py", LONG_FILE),
    (rules_shape.functions_stay_short, "storage/x.py", LONG_FUNCTION),
    (
        rules_shape.functions_stay_short,
        "storage/x.py",
        "class A:\n    async " + LONG_FUNCTION.replace("\n", "\n    "),
    ),
    (rules_shape.thinking_parts_explain_themselves, "storage/format/x.py", "def public(): ..."),
    (
        rules_shape.values_cannot_change,
        "session_service/core/x.py",
        "@dataclass(frozen=True, slots=True)\nclass A: ...",
    ),
    (rules_shape.values_cannot_change, "session_service/ports/x.py", "@dataclass\nclass A: ..."),
    (rules_shape.nothing_is_left_unfinished, "storage/x.py", "x = 1  # TO" + "DO"),
    (rules_shape.nothing_is_left_unfinished, "storage/x.py", "x = 1  # no" + "qa: E501"),
    (rules_shape.nothing_is_left_unfinished, "storage/x.py", "x = 1  # type: ig" + "nore[assignment]"),
    (rules_shape.nothing_is_left_unfinished, "tests/x.py", "@pytest.mark.sk" + "ip\ndef test_x(): ..."),
    (rules_calls.the_core_only_thinks, "session_service/core/x.py", "async def f(): ..."),
    (rules_calls.the_core_only_thinks, "session_service/core/x.py", "from time import monotonic"),
    (rules_calls.the_core_only_thinks, "storage/format/x.py", "import os\nx = os.urandom(4)"),
    (rules_calls.the_core_only_thinks, "storage/format/x.py", "x = datetime.now(UTC)"),
    (
        rules_calls.the_core_only_thinks,
        "session_service/core/x.py",
        "from session_service.base.log import get_logger",
    ),
    (rules_calls.control_is_steady, "session_service/control/x.py", "import random"),
    (rules_calls.control_is_steady, "session_service/control/x.py", "x = uuid.uuid4()"),
    (rules_calls.one_place_destroys, "session_service/host/x.py", "os.kill(1, 9)"),
    (rules_calls.one_place_destroys, "session_service/app/x.py", "process.terminate()"),
    (rules_calls.one_place_destroys, "storage/ops/x.py", "shutil.rmtree(home)"),
    (rules_calls.one_place_destroys, "storage/ops/x.py", "path.unlink()"),
    (rules_calls.one_place_destroys, "session_service/host/x.py", "(group / 'cgroup.kill').write_text('1')"),
    (rules_calls.one_place_destroys, "storage/ops/x.py", "await_in_thread(path.unlink)"),
    (
        rules_calls.one_place_destroys,
        "storage/objects/x.py",
        "async def f(): await self.client.delete_object(Key=key)",
    ),
    (rules_calls.tasks_have_owners, "session_service/gateway/x.py", TASK),
    (
        rules_calls.tasks_have_owners,
        "session_service/gateway/x.py",
        "asyncio.get_running_loop().create_task(f())",
    ),
    (rules_calls.no_shell_reads_arguments, "session_service/host/x.py", "subprocess.run('ls', shell=True)"),
    (rules_calls.no_shell_reads_arguments, "session_service/host/x.py", "os.system('ls')"),
    (rules_calls.libraries_have_one_home, "session_service/control/x.py", "import apsw"),
    (rules_calls.libraries_have_one_home, "session_service/app/x.py", "from aiohttp import web"),
    (
        rules_calls.storage_has_a_front_door,
        "session_service/checkpoints/x.py",
        "from storage.objects import folder",
    ),
    (rules_calls.storage_has_a_front_door, "storage/x.py", "import session_service.core.records"),
    (rules_words.names_follow_the_glossary, "session_service/control/x.py", "def take_snapshot(): ..."),
    (rules_words.names_follow_the_glossary, "session_service/control/x.py", "class DesktopSpawner: ..."),
    (
        rules_words.names_follow_the_glossary,
        "session_service/http/x.py",
        "class Answer:\n    reconnect_s: float",
    ),
    (rules_words.log_events_are_on_the_list, "session_service/control/x.py", "log.info('session.exploded')"),
    (
        rules_words.log_events_are_on_the_list,
        "session_service/control/x.py",
        "self._log.warning(f'{x}.held')",
    ),
]
GOOD: list[tuple[Rule, str, str]] = [
    (
        rules_calls.tasks_have_owners,
        "session_service/gateway/x.py",
        "group.create_" + "task(work(), name='x')",
    ),
    (rules_calls.one_place_destroys, "session_service/host/destroy.py", "os.kill(1, 9)"),
    (
        rules_calls.no_shell_reads_arguments,
        "session_service/host/x.py",
        "subprocess.run(['ls'], shell=False)",
    ),
    (
        rules_calls.storage_has_a_front_door,
        "session_service/checkpoints/x.py",
        "import storage\nfrom storage import open_home",
    ),
    (
        rules_shape.nothing_is_left_unfinished,
        "storage/x.py",
        "x = 1  # no" + "qa: E501 - a table that must stay in one line",
    ),
    (
        rules_words.log_events_are_on_the_list,
        "session_service/control/x.py",
        "log.info('session.held', cause=1)\nmath.log(2)",
    ),
    (
        rules_words.names_follow_the_glossary,
        "session_service/gateway/x.py",
        "class A:\n    def connection_made(self, t): ...",
    ),
]


def rules() -> list[Rule]:
    """Return every public rule of the rule modules."""
    found = [value for module in (rules_shape, rules_calls, rules_words) for value in vars(module).values()]
    names = {rule.__name__ for rule, _, _ in SAMPLES}
    return [
        value
        for value in found
        if callable(value) and is_rule(value) and (value.__name__ in names or value.__doc__)
    ]


def is_rule(value: Callable[..., object]) -> bool:
    """Say whether a function takes one module and yields offences, as all rules do."""
    hints = getattr(value, "__annotations__", {})
    return list(hints) == ["module", "return"] and str(hints["return"]).endswith("Iterator[str]")


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.__name__)
def test_the_product_keeps_the_rule(rule: Rule) -> None:
    """The docstring of the rule says what and why."""
    offences = [offence for module in product() for offence in rule(module)]
    assert not offences, f"{rule.__doc__}\n" + "\n".join(offences)


@pytest.mark.parametrize(
    ("rule", "path", "text"), SAMPLES, ids=lambda value: getattr(value, "__name__", None)
)
def test_the_rule_finds_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    """A rule that cannot fail is no rule."""
    assert list(rule(parse(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), GOOD, ids=lambda value: getattr(value, "__name__", None))
def test_the_rule_lets_pass_what_it_allows(rule: Rule, path: str, text: str) -> None:
    """A rule that forbids too much is switched off by the first who meets it."""
    assert not list(rule(parse(path, text)))


def test_every_module_can_be_read() -> None:
    """What cannot be parsed is not looked at by the rules, so it must not go unseen."""
    assert not broken()


def test_every_rule_has_a_bad_sample() -> None:
    """So that a new rule is seen to fail once."""
    assert {rule.__name__ for rule in rules()} == {rule.__name__ for rule, _, _ in SAMPLES}


def test_every_log_event_has_the_form_noun_and_past_participle() -> None:
    """Names are read by machines and by people at night."""
    assert rules_words.events_have_the_form(frozenset({"session.held", "Session held", "held"})) == [
        "Session held",
        "held",
    ]
    assert not rules_words.events_have_the_form(rules_words.events())


def test_no_exception_outlives_its_need() -> None:
    """Each allowance for a destroying call and for a word is used, and each has a reason."""
    made = {
        (module.path, name.rpartition(".")[2])
        for module in product()
        for _, name in rules_calls.destroying(module)
    }
    names = {name for module in product() for _, name in rules_words.public_names(module)}
    assert not [key for key in DESTROYING if key not in made]
    assert not [
        key
        for key in WORDS
        if (key if isinstance(key, str) else key[1]) not in names | {"connection_made", "connection_lost"}
    ]
    assert all(len(reason) > 10 for reason in [*DESTROYING.values(), *WORDS.values()])
