"""A ledger that can't be written: whoever waits for it is told, nothing is half submitted, and it goes on by itself."""

from __future__ import annotations

import threading

from tests.cli.fakes import Setup

BIG = "x" * 100_000
FULL = "database or disk is full"


def fill(cli: Setup, full: bool) -> None:
    """No page more for the ledger; or as many as it wants."""
    done = threading.Event()

    def limit() -> None:
        ledger = cli.agent.session._ledger._db
        (pages,) = ledger.execute("PRAGMA page_count").fetchone()
        ledger.execute(f"PRAGMA max_page_count = {pages if full else 1 << 30}")
        done.set()

    cli.agent.server.post(limit)
    assert done.wait(30)


def test_nothing_is_submitted_that_could_not_be_remembered(cli: Setup) -> None:
    there = cli.submit()
    fill(cli, True)
    for words in (["submit"], ["run"], ["submit", "--after", there]):
        code, out, err = cli(*words, "builtins:len", BIG)
        assert (code, out) == (125, ""), err
        error, hint = err.splitlines()
        assert error.startswith("error: can't write the ledger ") and f"{FULL}; nothing was submitted" in error
        assert hint.startswith("hint: is the disk full?")
    assert len(cli.client.futures) == 1
    assert cli("status", "-o", "ids")[1] == f"{there}\n"
    assert cli("cluster", "status", "-q")[0] == 0
    fill(cli, False)
    assert cli("submit", "--after", there, "builtins:len", BIG)[0] == 0
    assert len(cli("status", "-o", "ids")[1].splitlines()) == 2


def test_who_waits_is_told_and_what_happened_meanwhile_is_written_later(cli: Setup) -> None:
    with cli.start("run", "time:sleep", "60") as running:
        cli.client.arrived.acquire()
        fill(cli, True)
        cli.client.end(cli.client.latest(), BIG)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (125, ""), err
    assert FULL in err
    code, _, err = cli("wait", "@last")
    assert code == 125 and FULL in err
    fill(cli, False)
    assert cli("result", "@last") == (0, f"{BIG}\n", "")
