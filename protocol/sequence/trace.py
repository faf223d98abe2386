"""What happened in a run, entry by entry: the material of traces, diagrams and reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SENT, CAME, NOTE, LOST = "sent", "came", "note", "lost"


@dataclass
class Entry:
    """One message, or one thing that happened. ``what`` is SENT (by an actor), CAME (to it), NOTE or LOST."""

    what: str
    actor: str
    kind: str = ""
    shown: str = ""
    routine: bool = False
    """Heartbeats and echoes of the engine's own: left out of diagrams."""
    diverges: bool = False
    """The first message that is not what the scenario expects."""
    step: str = ""
    other: str = ""
    """The lane at the other end of the arrow, where that is not the subject's."""
    mark: str = ""
    """What is wrong with it, where that is not the first divergence."""


@dataclass
class Trace:
    """All entries of a run. ``subject`` is the implementation under test, by its role."""

    subject: str
    entries: list[Entry] = field(default_factory=list)
    lanes: tuple[str, ...] = ()
    """From left to right, the subject too; where there are none, the first actors stand at the left."""

    def add(self, what: str, actor: str, kind: str = "", shown: str = "", **more: Any) -> Entry:
        entry = Entry(what, actor, kind, shown, **more)
        self.entries.append(entry)
        return entry

    def visible(self) -> list[Entry]:
        """Without the engine's own heartbeats, unless one of them is the divergence."""
        return [e for e in self.entries if not e.routine or e.diverges]

    def as_data(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {"what": e.what, "actor": e.actor, "kind": e.kind, "fields": e.shown, "step": e.step}
            | ({"diverges": True} if e.diverges else {})
            for e in self.visible()
        ]
