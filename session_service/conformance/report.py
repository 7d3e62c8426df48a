"""What a run found, for people, programs and build servers: words, JSON and JUnit.

Not printed here: who runs the cases decides where the words go. A red case says what was expected, what was
seen instead, where that is written, and what happened until then.
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from xml.etree import ElementTree as ET

from session_service.conformance import rules
from session_service.conformance.runner import Colour, Verdict

SUITE = "continuity.v1"
WIDTH = 100
_INDENT = " " * 11


def line(verdict: Verdict) -> str:
    """Return one verdict as a line."""
    more = f"  ({verdict.words})" if verdict.colour is Colour.UNTRIED else ""
    return f"{verdict.colour.upper():<8}{verdict.seconds:6.1f} s  {verdict.case}{more}"


def explained(verdict: Verdict) -> str:
    """Return everything that is known about a red case."""
    rule = verdict.rule
    told = [
        f"RED  {verdict.case}",
        f"  expected {verdict.promise}",
        f"  seen     {verdict.words}",
        f'  rule     {rules.DOCUMENT}, "{rule.section}":',
        *textwrap.wrap(
            rule.words.replace("**", ""), WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
        ),
    ]
    if verdict.seen:
        told += ["  what happened", *(f"  {each}" for each in verdict.seen)]
    if verdict.said.strip():
        told += ["  the client's last words", *(f"{_INDENT}{each}" for each in verdict.said.splitlines())]
    return "\n".join(told)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the last line."""
    count = counts(verdicts)
    return (
        f"{count[Colour.GREEN]} green, {count[Colour.RED]} red, {count[Colour.UNTRIED]} untried, "
        f"of {len(verdicts)} cases."
    )


def counts(verdicts: Sequence[Verdict]) -> dict[Colour, int]:
    """Count the verdicts by colour."""
    return {colour: sum(each.colour is colour for each in verdicts) for colour in Colour}


def as_json(verdicts: Sequence[Verdict], url: str) -> str:
    """Return all of it for programs."""
    cases = [{**asdict(each), "rule": {"document": rules.DOCUMENT, **asdict(each.rule)}} for each in verdicts]
    count = counts(verdicts)
    return json.dumps(
        {"ok": count[Colour.RED] == 0, "url": url, "counts": count, "cases": cases},
        indent=2,
        ensure_ascii=False,
    )


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """Return all of it as build servers read it."""
    count = counts(verdicts)
    suite = ET.Element(
        "testsuite",
        name=SUITE,
        tests=str(len(verdicts)),
        failures=str(count[Colour.RED]),
        errors="0",
        skipped=str(count[Colour.UNTRIED]),
        time=f"{sum(each.seconds for each in verdicts):.2f}",
    )
    for each in verdicts:
        case = ET.SubElement(suite, "testcase", classname=SUITE, name=each.case, time=f"{each.seconds:.2f}")
        if each.colour is Colour.RED:
            failure = ET.SubElement(case, "failure", message=_plain(each.words))
            failure.text = _plain(explained(each))
        elif each.colour is Colour.UNTRIED:
            ET.SubElement(case, "skipped", message=_plain(each.words))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _plain(text: str) -> str:
    """Leave out what XML cannot hold; a client's last words are anything."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
