"""What the lines of a report say: as a table, and whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

GROWTH = 0.05
_MEASURES = (("rss", "resident"), ("fds", "descriptors"), ("threads", "threads"))
_FREE = 3
"""Descriptors and threads that a process may have more: connections of the moment."""
_MIB = 1 << 20
Lines = Iterable[dict[str, Any]]


def judge(lines: Lines, console: Console) -> bool:
    """Prints what the lines say; True if everything holds and the run came to its end."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_kind.setdefault(line["line"], []).append(line)
    start, samples = by_kind["start"][0], by_kind.get("sample", [])
    if not samples:
        console.print("no sample was taken")
        return False
    faults: list[str] = []
    seconds = samples[-1]["at"]
    first = [sample for sample in samples if sample["at"] <= seconds / 4]
    last = [sample for sample in samples if sample["at"] >= seconds * 3 / 4]
    console.print(
        f"{seconds / 60:.1f} minutes of {start['seconds'] / 60:g}, seed {start['seed']}, {len(samples)} samples, "
        f"{start['rate']:.1f} operations/s ({start['fraction']:g} of {start['capacity']:.1f})"
    )
    console.print(_processes(first, last, faults))
    console.print(_holdings(samples, first, last))
    console.print(_operations(samples[-1]["operations"], faults))
    console.print(f"held back because too much was under way: {samples[-1]['held_back']} operations")
    for failure in by_kind.get("failure", []):
        faults.append(f"{failure['operation']} (seed {failure['seed']}): {failure['what']}")
    end = by_kind.get("end", [None])[0]
    if end is None:
        faults.append("the run did not come to its end")
    else:
        faults += end["faults"]
        console.print(f"after all clients left: {end['held']}; before any came: {end['held_before']}")
    for fault in faults[:40]:
        console.print(f"[red]does not hold:[/] {fault}", highlight=False)
    console.print("flat, nothing lost, nothing wrong, nothing left" if not faults else f"{len(faults)} faults")
    return not faults


def _processes(first: list[dict[str, Any]], last: list[dict[str, Any]], faults: list[str]) -> Table:
    table = Table(box=box.SIMPLE, title="medians of the first and of the last quarter", title_justify="left")
    for name in ("process", "resident, MiB", "change", "private, MiB", "descriptors", "threads", "CPU, s"):
        table.add_column(name, justify="left" if name == "process" else "right")
    for role in last[-1]["processes"]:
        use = {
            name: (_median(first, role, name), _median(last, role, name)) for name in ("rss", "uss", "fds", "threads")
        }
        change = use["rss"][1] / use["rss"][0] - 1 if use["rss"][0] else 0.0
        judged = role != "processors"  # they come and go with cancels
        if judged and change > GROWTH:
            faults.append(f"the memory of the {role} grew by {change:.1%}")
        for name in ("fds", "threads"):
            before, after = use[name]
            if judged and after > max(before * (1 + GROWTH), before + _FREE):
                faults.append(f"the {role} has {after:g} {dict(_MEASURES)[name]}, it had {before:g}")
        table.add_row(
            role,
            *[f"{use['rss'][0] / _MIB:.1f} → {use['rss'][1] / _MIB:.1f}", f"{change:+.1%}"],
            f"{use['uss'][0] / _MIB:.1f} → {use['uss'][1] / _MIB:.1f}",
            *[f"{use[name][0]:g} → {use[name][1]:g}" for name in ("fds", "threads")],
            f"{last[-1]['processes'][role].get('cpu', 0):.0f}",
        )
    return table


def _holdings(samples: list[dict[str, Any]], first: list[dict[str, Any]], last: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE)
    for name in ("held", "first quarter", "last quarter", "most"):
        table.add_column(name, justify="left" if name == "held" else "right")
    for name in (
        "tasks",
        "clients",
        "objects",
        "objects_of_nobody",
        "object_bytes",
        "storage_pending",
        "ledger_bytes",
        "processors",
    ):
        values = [statistics.median(sample[name] for sample in some) for some in (first, last)]
        values.append(max(sample[name] for sample in samples))
        if name.endswith("bytes"):
            table.add_row(name.replace("_bytes", "s, MiB"), *[f"{value / _MIB:.1f}" for value in values])
        else:
            table.add_row(name.replace("_", " "), *[f"{value:g}" for value in values])
    return table


def _operations(operations: dict[str, dict[str, Any]], faults: list[str]) -> Table:
    table = Table(box=box.SIMPLE)
    for name in ("operation", "done", "tasks", "lost", "wrong", "mean, ms", "most, ms"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    total = {"done": 0, "tasks": 0, "lost": 0, "wrong": 0}
    for kind, count in operations.items():
        for name in total:
            total[name] += count[name]
        mean = 1000 * count["seconds"] / max(1, count["done"])
        cells = [f"{count[name]:,}" for name in total]
        table.add_row(kind, *cells, f"{mean:.1f}", f"{1000 * count['longest']:.0f}")
        if not count["done"]:
            faults.append(f"no operation of the kind {kind!r} was done")
    table.add_row("all", *[f"{total[name]:,}" for name in total], "", "")
    return table


def _median(samples: list[dict[str, Any]], role: str, measure: str) -> float:
    found = [sample["processes"][role][measure] for sample in samples if sample["processes"].get(role)]
    return statistics.median(found) if found else 0.0
