"""``python -m protocol``: every kind of message, where it is specified, who sends and handles it, and what tests it."""

from __future__ import annotations

import argparse
import json
import sys

from protocol.kinds import SCENARIOS, Row, rows

_HEAD = ("kind", "no.", "SPEC", "sent by", "handled by", "scenarios")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 if a cell is empty: then stderr says which."""
    parser = argparse.ArgumentParser(
        prog="python -m protocol",
        description="Lists every kind of message: the section of SPEC.md that defines it, the roles that send and "
        "handle it, and the scenarios of the conformance suite that judge it. Exit code 1 if something is missing.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    options = parser.parse_args(argv)
    table = rows()
    try:
        if options.json:
            print(json.dumps([_as_data(row) for row in table], indent=1))
        elif sys.stdout.isatty():
            _show(table)
        else:
            for row in table:
                print(*_cells(row, every=True), sep="\t")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the interpreter would complain, too
        return 141
    if not SCENARIOS.is_dir():
        print(f"error: there are no scenarios at {SCENARIOS}", file=sys.stderr)
        return 1
    empty = [f"{row.kind} has no {cell}" for row in table for cell in row.empty]
    for line in empty:
        print(f"error: {line}", file=sys.stderr)
    return 1 if empty else 0


def _as_data(row: Row) -> dict[str, object]:
    return {
        "kind": row.kind,
        "number": row.number,
        "section": row.section,
        "senders": row.flow.senders,
        "handlers": row.flow.handlers,
        "scenarios": row.scenarios,
        "note": row.flow.note,
    }


def _cells(row: Row, *, every: bool) -> tuple[str, ...]:
    head = (row.kind, str(row.number), row.section)
    if row.flow.note:
        return (*head, row.flow.note, row.flow.note, row.flow.note)
    scenarios = ", ".join(row.scenarios)
    if not every and len(row.scenarios) > 1:
        scenarios = f"{len(row.scenarios)}, e.g. {min(row.scenarios, key=len)}"
    return (*head, ", ".join(row.flow.senders), ", ".join(row.flow.handlers), scenarios)


def _show(table: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in _HEAD:
        shown.add_column(name, no_wrap=name in ("kind", "SPEC"), justify="right" if name == "no." else "left")
    shown.columns[-1].ratio = 1
    for row in table:
        cells = _cells(row, every=False)
        if row.flow.note:
            shown.add_row(*cells[:3], cells[3], "-", "-", style="dim")
        else:
            shown.add_row(*(cell or "[red]missing[/red]" for cell in cells))
    Console().print(shown)


if __name__ == "__main__":
    sys.exit(main())
