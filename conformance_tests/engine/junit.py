"""Results as JUnit XML: one test suite per role, one test case per scenario, named by its id."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.suite import Result
from protocol.sequence import diagram


def document(target: str, results: Sequence[Result]) -> str:
    """The XML. The class name is ``target.role``, so that files of several targets line up."""
    root = ElementTree.Element("testsuites", name=f"conformance of {target}")
    for role in dict.fromkeys(r.scenario.role for r in results):
        mine = [r for r in results if r.scenario.role == role]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{target}.{role}",
            tests=str(len(mine)),
            failures=str(sum(r.verdict is Verdict.FAIL for r in mine)),
            errors=str(sum(r.verdict is Verdict.INCONCLUSIVE for r in mine)),
            skipped=str(sum(r.verdict in (Verdict.UNSUPPORTED, Verdict.KNOWN) for r in mine)),
            time=f"{sum(r.seconds for r in mine):.3f}",
        )
        for found in mine:
            _case(suite, target, found)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, target: str, found: Result) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"{target}.{found.scenario.role}",
        name=f"{found.scenario.id} ({found.via})",
        time=f"{found.seconds:.3f}",
    )
    failure = found.failure
    if found.verdict is Verdict.FAIL and failure is not None:
        kind = f"{found.level} {', '.join(found.requirements)}"
        element = ElementTree.SubElement(case, "failure", type=kind, message=_clean(failure.text))
        if found.trace is not None:
            element.text = _clean(diagram.text(found.trace))
    elif found.verdict is Verdict.INCONCLUSIVE:
        ElementTree.SubElement(case, "error", type=found.cause, message=_clean(found.reason))
    elif found.verdict is not Verdict.PASS:
        ElementTree.SubElement(case, "skipped", message=_clean(f"{found.verdict.value}: {found.reason}"))


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
