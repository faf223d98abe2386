"""Partial matches, symbols and wildcards."""

from __future__ import annotations

from typing import Any

import pytest

from conformance_tests.engine.matching import match_message
from conformance_tests.engine.names import Names

T1 = bytes(range(16))
RESULT = {"taskId": T1, "resultType": "success", "metadata": b"", "results": [b"a" * 32, b"b" * 32], "count": 3}


def match(expected: dict[str, Any], names: Names | None = None) -> str | None:
    return match_message("taskResult", expected, "taskResult", RESULT, names or Names())


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"resultType": "success"},
        {"taskId": {"hex": T1.hex()}},
        {"taskId": "${bytes:16}", "metadata": "${empty}", "results": "${nonEmpty}"},
        {"resultType": "${oneOf:failed|success}", "count": "${int:>=3}"},
        {"results": ["${bytes:32}", {"text": "b" * 32}]},
        {"results": {"unordered": ["b" * 32, "a" * 32]}},
        {"results": {"contains": "b" * 32}},
        {"results": {"length": 2}, "resultType": {"not": "failed"}},
        {"resultType": "${regex:^suc}", "metadata": "${any}"},
    ],
)
def test_matches(expected: dict[str, Any]) -> None:
    assert match(expected) is None


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ({"resultType": "failed"}, "resultType is success, failed was expected"),
        ({"results": ["${any}"]}, "results has 2 elements, 1 were expected"),
        ({"results": ["x", "${any}"]}, "results[0] is"),
        ({"nothing": 1}, "nothing is not there"),
        ({"count": "${int:<3}"}, "count is 3, ${int:<3} was expected"),
        ({"results": {"unordered": ["a" * 32]}}, "elements that were not expected"),
        ({"resultType": {"not": "success"}}, "which it must not be"),
        ({"taskId": "${bytes:15}"}, "${bytes:15} was expected"),
    ],
)
def test_says_what_differs(expected: dict[str, Any], text: str) -> None:
    found = match(expected)
    assert found is not None
    assert text in found


def test_a_symbol_takes_what_it_meets_first_and_then_holds_it() -> None:
    names = Names()
    assert match({"taskId": "$t"}, names) is None
    assert names.get("t") == T1
    assert match({"taskId": "$t"}, names) is None
    other = match_message("taskResult", {"taskId": "$t"}, "taskResult", {"taskId": b"x" * 16}, names)
    assert other == "taskId is 'xxxxxxxxxxxxxxxx', $t was expected"


def test_a_failed_match_binds_nothing() -> None:
    names = Names()
    assert match({"taskId": "$t", "resultType": "failed"}, names) is not None
    assert not names.known("t")


def test_another_kind_is_named() -> None:
    assert match_message("task", {}, "taskResult", RESULT, Names()) == "a taskResult came instead"
