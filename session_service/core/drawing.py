"""docs/lifecycle.md, drawn from the table: the picture, every rule, every writer of a field, and the close.

Not the law: that is `core/lifecycle.py`; a test keeps the page in step. Run `python -m
session_service.core.drawing > docs/lifecycle.md`.
"""

from collections.abc import Iterable
from dataclasses import fields

from session_service.core import fields as changes
from session_service.core import guards
from session_service.core.close import CLOSE_STEPS
from session_service.core.lifecycle import TRANSITIONS, Rule
from session_service.core.records import Session, State

HEAD = """# The lifecycle of a session

This page is drawn from the table in `session_service/core/lifecycle.py` by `python -m
session_service.core.drawing`; a test keeps both in step. What is not in the table is refused, and nothing
changes.

A *hold* begins with the durable record "no live client" and is counted in ticks of the node's availability
counter: every 2 s the node writes it as an absolute value, and a gap of more than 5 s, or one in which the
node could not have accepted its user, counts nothing. So no outage, suspend or clock step of ours ends a hold
early. An expiry is looked at again inside the transaction that carries it out: session, loss epoch, deadline,
lease and registry epoch.

Rules marked *settled* need a node that is settled in the registry's epoch: after a restored backup nothing is
ended, expired, started or released before the node has looked at its own desktops and at the log.
"""

CLOSE_HEAD = """
## The close

Each step is repeated until its evidence holds, for ever, with pauses of 1 to 30 s; then it is recorded in one
transaction. Before `ending` the desktop is frozen and can be given back to its user; after it every
destructive call carries a proof that only the storage worker can make.

`desktop_reused` closes the old session and makes a new one in the same transaction: same lease, same fence,
held with a full hold until its user attaches; the desktop is thawed after the commit. Something that fails is
tried again for ever, and is shown: on the page of its user, to operators, and as an alarm.
"""

WRITERS_HEAD = """
## Who writes what

Every field of a session is written by its owner, the node that holds the lease, through `core.lifecycle.step`
only, by compare-and-set on `generation`. The lease is written by the owner and by whoever starts; the counter
by its node.
"""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _name(state: State | None) -> str:
    return state.value if state is not None else "-"


def picture() -> str:
    """Return the states and the events between them, as a Mermaid diagram."""
    edges: dict[tuple[str, str], list[str]] = {}
    for (state, event), rules in TRANSITIONS.items():
        for rule in rules:
            if state is not rule.to:
                ends = ("[*]" if state is None else state.value, rule.to.value)
                names = edges.setdefault(ends, [])
                if event.value not in names:
                    names.append(event.value)
    lines = [f"    {start} --> {end}: {', '.join(names)}" for (start, end), names in edges.items()]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n    closed --> [*]\n```\n"


def rule_rows() -> Iterable[tuple[str, ...]]:
    """Yield every rule of the table."""
    for (state, event), rules in TRANSITIONS.items():
        for rule in rules:
            yield (_name(state), event.value, rule.to.value, _guard(rule), _changes(rule), _effects(rule))


def _guard(rule: Rule) -> str:
    words = [guards.WORDS[rule.guard]] if guards.WORDS[rule.guard] else []
    return "; ".join([*words, *(["*settled*"] if rule.destructive else [])])


def _changes(rule: Rule) -> str:
    return "; ".join(changes.WORDS[change] for change in rule.changes)


def _effects(rule: Rule) -> str:
    return ", ".join(effect.value for effect in rule.effects)


def page() -> str:
    """Return the whole page."""
    rules = table(("state", "event", "to", "guard", "fields", "effects"), rule_rows())
    close = table(
        ("after", "step", "records", "evidence", "a repeat is harmless because", "alarm after"),
        (
            (
                step.after.value,
                step.name.value,
                step.records.value if step.records is not None else "that it was asked",
                step.evidence,
                step.harmless_repeat,
                f"{step.alarm_s:g} s",
            )
            for step in CLOSE_STEPS
        ),
    )
    names = ", ".join(f"`{field.name}`" for field in fields(Session))
    return (
        f"{HEAD}\n## The picture\n\n{picture()}\n## The table\n\n{rules}{CLOSE_HEAD}\n{close}"
        f"{WRITERS_HEAD}\nFields of a session: {names}.\n"
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
