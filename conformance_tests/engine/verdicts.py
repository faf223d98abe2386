"""What results mean: levels from SPEC.md, known deviations, and whether an implementation conforms."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from conformance_tests.engine.runner import Failure, Verdict
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.targets import Deviation
from protocol import spec_text
from protocol.spec_text import Requirement

if TYPE_CHECKING:
    from conformance_tests.engine.suite import Result

_LEVELS = ("MUST", "SHOULD", "MAY")
CONFORMS, NOT_CONFORMANT, INCONCLUSIVE = 0, 12, 11


@cache
def requirements() -> dict[str, Requirement]:
    """The requirements of SPEC.md, empty where the file is not there."""
    try:
        return spec_text.requirements()
    except OSError:
        return {}


def level(ids: Iterable[str]) -> str:
    """The strongest level of these requirements; MUST where SPEC.md does not know them."""
    found = {requirements()[i].level if i in requirements() else "MUST" for i in ids}
    return next((one for one in _LEVELS if one in found), "MUST")


def known(
    verdict: Verdict, failure: Failure | None, scenario: Scenario, deviations: Sequence[Deviation]
) -> tuple[Verdict, str]:
    """The verdict of a failure in the light of the known deviations, and the reason that stands there."""
    if failure is not None:
        for deviation in deviations:
            if _applies(deviation, failure.requirements, scenario) and deviation.failure in failure.text:
                return Verdict.KNOWN, deviation.reason
    return verdict, ""


def _applies(deviation: Deviation, ids: Iterable[str], scenario: Scenario) -> bool:
    short = scenario.id.rpartition("/")[2]
    return deviation.requirement in ids and any(
        fnmatch.fnmatchcase(name, deviation.scenario) for name in (scenario.id, short)
    )


class Wrong(NamedTuple):
    """A known deviation that does not hold (any more)."""

    deviation: Deviation
    why: str


def wrong_deviations(deviations: Sequence[Deviation], results: Sequence[Result], complete: bool) -> list[Wrong]:
    """The entries that are stale (everything that they are about passes) or unmatched (it fails in another way, or,
    in a complete run, there is nothing that they are about). Without ``complete``, entries that are about several
    scenarios are not judged."""
    wrong: list[Wrong] = []
    for deviation in deviations:
        if not complete and set(deviation.scenario) & set("*?["):
            continue  # another of its scenarios may show it
        about = [
            r
            for r in results
            if _applies(deviation, r.scenario.requirements, r.scenario)
            or (r.failure is not None and _applies(deviation, r.failure.requirements, r.scenario))
        ]
        if not about:
            if complete:
                wrong.append(Wrong(deviation, "unmatched: no scenario is about it"))
            continue
        if any(_matches(deviation, r) for r in about):
            continue
        failed = [r for r in about if r.verdict in (Verdict.FAIL, Verdict.KNOWN)]
        if failed:
            text = failed[0].failure.text if failed[0].failure else ""
            wrong.append(Wrong(deviation, f"unmatched: {failed[0].scenario.id} fails in another way: {text}"))
        elif not deviation.sometimes and any(r.verdict is Verdict.PASS for r in about):
            passed = next(r for r in about if r.verdict is Verdict.PASS)
            wrong.append(Wrong(deviation, f"stale: {passed.scenario.id} passes"))
    return wrong


def _matches(deviation: Deviation, result: Result) -> bool:
    return (
        result.verdict is Verdict.KNOWN
        and result.failure is not None
        and _applies(deviation, result.failure.requirements, result.scenario)
        and deviation.failure in result.failure.text
    )


def exit_code(results: Sequence[Result], wrong: Sequence[Wrong]) -> int:
    """12 when a MUST failed, a known deviation does not hold, or a scenario could not be judged; else 0."""
    failed = any(r.verdict is Verdict.FAIL and r.level == "MUST" for r in results)
    unclear = any(r.verdict is Verdict.INCONCLUSIVE for r in results)
    return NOT_CONFORMANT if failed or wrong or unclear else CONFORMS
