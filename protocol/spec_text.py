"""SPEC.md as data: its requirements, and its parts that are made from the code.

``requirements()`` parses the numbered statements, for the conformance suite and for whoever traces them. A statement
is a paragraph that begins with its id and the roles that it binds: ``**CAN-06** (scheduler) When … MUST …``; after a
semicolon may stand the optional capability to which it belongs: ``(scheduler; graphs)``.

Between ``<!-- generated: NAME -->`` and ``<!-- end -->`` stands text that ``python -m protocol.spec_text --write``
makes from the schema, the lifecycle table and the codec; without ``--write`` it says what is stale or wrong, and ends
with 1 if anything is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from protocol import codec, layout, storage
from protocol.identifiers import ObjectId, TaskId
from protocol.lifecycle import IGNORED, LIVING, TABLE, TERMINAL, Action, Event, State
from protocol.messages import TaskCancel, TaskCancelFlags

_SOURCE, _INSTALLED = Path(__file__).parent.parent / "SPEC.md", Path(__file__).with_name("SPEC.md")
PATH = _INSTALLED if _INSTALLED.exists() else _SOURCE
"""SPEC.md: in a wheel it lies inside the package."""

ROLES = ("client", "scheduler", "worker", "storage", "manager", "all")
CAPABILITIES = (
    "balancing", "bounded", "dependencies", "graphs", "information", "keys", "limits", "managers", "monitor",
    "placement", "priorities",
)  # fmt: skip
PREFIXES = (
    *("TRN", "IDN", "MSG", "TSK", "WRK", "PRI", "GRA", "CAN", "BAL", "OBJ"),
    *("STO", "LIV", "MAN", "FUT", "MAL", "SEC", "MON", "INF", "LIM"),
)

_STATEMENT = re.compile(r"^\*\*([A-Z]{3}-\d{2})\*\* \(([^)]*)\) (.*)$")
_HEADING = re.compile(r"^#{2,4} (?:Annex ([A-Z])\b|(\d+(?:\.\d+)*))")
_BLOCK = re.compile(r"(<!-- generated: ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CITATION = re.compile(rf"\b(?:{'|'.join(PREFIXES)})-\d{{2}}\b")
_LEVELS = (
    ("MUST", re.compile(r"\b(?:MUST|REQUIRED|SHALL)\b")),
    ("SHOULD", re.compile(r"\b(?:SHOULD|RECOMMENDED)\b")),
    ("MAY", re.compile(r"\b(?:MAY|OPTIONAL)\b")),
)


class Requirement(NamedTuple):
    """One numbered statement. ``level`` is its strongest word: MUST, SHOULD or MAY. ``capability`` is empty for what
    every implementation of the role must do."""

    id: str
    section: str
    roles: tuple[str, ...]
    level: str
    text: str
    capability: str = ""


def requirements(path: Path = PATH) -> dict[str, Requirement]:
    """The statements of SPEC.md by id, in their order there; raises ValueError for one that is not well-formed."""
    found: dict[str, Requirement] = {}
    for requirement in _statements(path.read_text()):
        if requirement.id in found:
            raise ValueError(f"{requirement.id} stands twice in {path.name}")
        found[requirement.id] = requirement
    return found


def _statements(text: str) -> Iterator[Requirement]:
    section, lines = "", text.split("\n")
    for i, line in enumerate(lines):
        if heading := _HEADING.match(line):
            section = heading[1] or heading[2]
        if not (match := _STATEMENT.match(line)):
            continue
        paragraph = [match[3]]
        for more in lines[i + 1 :]:
            if not more.strip() or _STATEMENT.match(more):
                break
            paragraph.append(more.strip())
        statement = " ".join(paragraph)
        who, _, capability = match[2].partition(";")
        roles = tuple(role.strip() for role in who.split(","))
        capability = capability.strip()
        if unknown := [r for r in roles if r not in ROLES]:
            raise ValueError(f"{match[1]} binds {', '.join(unknown)}: a role is one of {', '.join(ROLES)}")
        if capability and capability not in CAPABILITIES:
            raise ValueError(f"{match[1]} belongs to the unknown capability {capability}")
        level = next((name for name, words in _LEVELS if words.search(statement)), None)
        if level is None:
            raise ValueError(f"{match[1]} requires nothing: no MUST, SHOULD or MAY")
        yield Requirement(match[1], section, roles, level, statement, capability)


def sections(path: Path = PATH) -> set[str]:
    """The numbers of all sections ("5.4"), and the letters of the annexes."""
    return {m[1] or m[2] for line in path.read_text().split("\n") if (m := _HEADING.match(line))}


def citations(text: str) -> set[str]:
    """The ids of requirements that ``text`` mentions."""
    return set(_CITATION.findall(text))


# ---- generated parts ----


def render(text: str) -> str:
    """SPEC.md with every generated part made anew; raises ValueError for a part of an unknown name."""

    def replace(match: re.Match[str]) -> str:
        name, _, argument = match[2].partition(".")
        try:
            return f"{match[1]}{_PARTS[name](argument)}\n{match[3]}"
        except KeyError as error:
            raise ValueError(f"there is no generated part {match[2]}: unknown {error}") from None

    return _BLOCK.sub(replace, text)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


_STRUCT = re.compile(r"^\s*(?:struct|enum) (\w+) \{")
_MEMBER = re.compile(r"^\s*(\w+) @\d+(?: :[^;]+)?;\s*(?:#\s*(.*))?$")


@cache
def _meanings() -> dict[str, str]:
    """The comments of the schema: "Task.taskId" to what stands behind the field, "Task" to what stands below its
    name."""
    meanings: dict[str, str] = {}
    for path in sorted(layout.PATH.parent.glob("*.capnp")):
        scope: list[str] = []
        for line in path.read_text().split("\n"):
            name = ".".join(s for s in scope if s)
            if opened := _STRUCT.match(line):
                scope.append(opened[1])
            elif line.strip() == "union {":
                scope.append("")
            elif line.strip() == "}":
                scope.pop()
            elif member := _MEMBER.match(line):
                meanings[f"{name}.{member[1]}"] = member[2] or ""
            elif scope and line.strip().startswith("#"):
                meanings[name] = (meanings.get(name, "") + " " + line.strip()[1:].strip()).strip()
    return meanings


def _place(field: dict[str, Any]) -> str:
    kind, offset = field["type"], field["offset"]
    if kind == "Void":
        return "-"
    if kind == "Bool":
        return f"bit {offset}"
    number = re.fullmatch(r"(?:UInt|Int|Float)(\d+)", kind)
    if number or kind in layout.load()["enums"]:
        return f"byte {offset * (int(number[1]) // 8 if number else 2)}"
    return f"pointer {offset}"


def _fields(name: str) -> str:
    struct = layout.load()["structs"][name]
    words, pointers = struct["dataWords"], struct["pointers"]
    size = f"`{name}`: {words} data word{'s'[: words != 1]}, {pointers} pointer{'s'[: pointers != 1]}."
    rows = [
        [f"`{f['name']}`", str(f["ordinal"]), f"`{f['type']}`", _place(f), _meanings()[f"{name}.{f['name']}"]]
        for f in struct["fields"]
    ]
    return f"{size}\n\n{_table(['field', '@', 'type', 'at', 'meaning'], rows)}" if rows else f"{size} No fields."


def _enum(name: str) -> str:
    rows = [
        [str(i), f"`{value}`", _meanings()[f"{name}.{value}"]]
        for i, value in enumerate(layout.load()["enums"][name]["values"])
    ]
    return _table(["ordinal", f"`{name}`", "meaning"], rows)


def _messages(_: str) -> str:
    rows = []
    for field in layout.load()["structs"]["Message"]["fields"]:
        what = _meanings().get(field["type"], "").split(". ")[0].rstrip(".")
        rows.append([str(field["discriminant"]), f"`{field['name']}`", f"`{field['type']}`", what])
    return _table(["discriminant", "variant", "struct", "in short"], rows)


def _states(_: str) -> str:
    wire = {s: str(layout.load()["enums"]["TaskState"]["values"][s.wire]) for s in (*LIVING[1:], *TERMINAL)}
    rows = [[f"`{State.UNKNOWN.value}`", "not alive", "not shown"]]
    rows += [[f"`{s.value}`", "living", f"`{wire[s]}`"] for s in LIVING[1:]]
    rows += [[f"`{s.value}`", "terminal", f"`{wire[s]}`"] for s in TERMINAL]
    return _table(["state", "kind", "on the wire"], rows)


def _events(_: str) -> str:
    rows = [[f"`{e.value[0]}`", e.value[2], f"`{e.monitor_name}`" if e.monitor_name else ""] for e in Event]
    return _table(["event", "what happened", "`StateTask.event`"], rows)


def _actions(actions: tuple[Action, ...]) -> str:
    return "; ".join(a.value for a in actions) or "nothing"


def _lifecycle_table(_: str) -> str:
    rows = [
        [
            f"`{state.value}`",
            f"`{event.value[0]}`",
            f"`{row.next.value}`" if row.next in (*LIVING, *TERMINAL) else row.next.value,
            _actions(row.actions),
            row.rule,
        ]
        for state, of_state in TABLE.items()
        for event, row in of_state.items()
    ]
    return _table(["state", "event", "next state", "what the scheduler does, in this order", "rule"], rows)


def _lifecycle_ignored(_: str) -> str:
    grouped: dict[tuple[str, str], list[str]] = {}
    for state, of_state in IGNORED.items():
        for event, why in of_state.items():
            if why.possible:
                grouped.setdefault((why.because, why.rule), []).append(f"`{state.value}` + `{event.value[0]}`")
    rows = [["; ".join(pairs), because, rule] for (because, rule), pairs in grouped.items()]
    return _table(["state + event", "ignored, because", "rule"], rows)


_JUNCTIONS = {State.AS_RESULT_SAYS: "result", State.AS_NODE_ENDED: "asTheNode"}
"""Where the diagram has one place for several terminal states."""


def _lifecycle_diagram(_: str) -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> inactive: Task", "    [*] --> waiting: GraphTask"]
    edges: dict[tuple[str, str], list[str]] = {}
    for state in LIVING[1:]:
        for event, row in TABLE[state].items():
            if row.next is not state:
                target = _JUNCTIONS.get(row.next, row.next.value)
                edges.setdefault((state.value, target), []).append(event.value[0])
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in edges.items()]
    ends = sorted({b for _, b in edges} - {s.value for s in LIVING})
    lines += [f"    {name}: {state.value}" for state, name in _JUNCTIONS.items()]
    lines += [f"    {end} --> [*]" for end in ends]
    return "\n".join([*lines, "```"])


def _dump(parts: list[tuple[bytes, str]]) -> str:
    """Bytes as words of eight with what they are beside them."""
    lines, at = ["```"], 0
    for data, what in parts:
        for i in range(0, len(data), 8):
            lines.append(f"{at + i:04x}  {data[i : i + 8].hex(' '):<24} {what if i == 0 else ''}".rstrip())
        at += len(data)
    return "\n".join([*lines, "```"])


_EXAMPLE_TASK = TaskId(bytes(range(0x10, 0x20)))
_EXAMPLE_OBJECT = ObjectId(bytes(range(0x40, 0x60)))


def _example_cancel(_: str) -> str:
    frame = codec.encode(TaskCancel(_EXAMPLE_TASK, TaskCancelFlags(True)))
    notes = (
        "segments - 1 (0), words of the first segment (10)",
        "root: struct, 1 data word, 1 pointer",
        "discriminant 1: taskCancel",
        "struct TaskCancel: no data, 2 pointers",
        "taskId: list of 16 bytes, 1 word further",
        "flags: struct of 1 data word, 2 words further",
        "taskId, first half",
        "taskId, second half",
        "flags: force",
    )
    words = [frame[i : i + 8] for i in range(0, len(frame), 8)]
    return _dump(list(zip(words, notes, strict=True)))


def _example_set(_: str) -> str:
    head, payload = (bytes(part) for part in storage.set_request(7, _EXAMPLE_OBJECT, b"hello"))
    return _header_dump(head, "payloadLength 5", "requestID 7", "requestType 0: setObject", payload)


def _example_set_ok(_: str) -> str:
    (head,) = (bytes(part) for part in storage.response(7, storage.ResponseType.SET_OK, _EXAMPLE_OBJECT))
    return _header_dump(head, "payloadLength 0: no payload follows", "responseID 7", "responseType 0: setOK", b"")


def _header_dump(head: bytes, length: str, number: str, kind: str, payload: bytes) -> str:
    names = ["length prefix: 80", "segments - 1 (0), words (9)", "root: struct, 3 data words, 1 pointer"]
    names += [length, number, kind, "objectID: struct of 4 data words", "field0: the id's first 8 bytes, reversed"]
    names += ["field1", "field2", "field3"]
    parts = [(head[8 * i : 8 * i + 8], name) for i, name in enumerate(names)]
    if payload:
        parts += [(head[88:], f"length prefix: {len(payload)}"), (payload, "the payload")]
    return _dump(parts)


_PARTS: dict[str, Callable[[str], str]] = {
    "fields": _fields,
    "enum": _enum,
    "messages": _messages,
    "lifecycle-states": _states,
    "lifecycle-events": _events,
    "lifecycle-table": _lifecycle_table,
    "lifecycle-ignored": _lifecycle_ignored,
    "lifecycle-diagram": _lifecycle_diagram,
    "example-cancel": _example_cancel,
    "example-set": _example_set,
    "example-set-ok": _example_set_ok,
}


def main(argv: list[str] | None = None) -> int:
    """Checks SPEC.md, or writes its generated parts."""
    parser = argparse.ArgumentParser(prog="python -m protocol.spec_text", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write the generated parts")
    parser.add_argument("path", nargs="?", type=Path, default=PATH)
    options = parser.parse_args(argv)
    try:
        text = options.path.read_text()
        rendered = render(text)
        count = len(requirements(options.path))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if options.write:
        options.path.write_text(rendered)
    elif rendered != text:
        sys.stderr.write(f"error: generated parts of {options.path} are stale\n")
        sys.stderr.write("hint: python -m protocol.spec_text --write\n")
        return 1
    print(f"{options.path}: {count} requirements")
    return 0


if __name__ == "__main__":
    sys.exit(main())
