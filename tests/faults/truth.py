"""What was said of each task, by whom: the truth that the report judges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

CLIENT_KILLED = "its client was killed"


@dataclass
class Truth:
    """Of ``tasks`` tasks. A task that is in ``open`` has been submitted, and nothing was said of it since."""

    tasks: int
    outcomes: Counter[str] = field(default_factory=Counter)
    over: dict[int, str] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)  # task to the client that submitted it
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def heard(self, client: int, line: dict[str, Any]) -> None:
        """A line of a driver."""
        if "submitted" in line:
            self.open[line["submitted"]] = client
        elif "ended" in line:
            number, outcome = line["ended"], line["as"]
            if number in self.over:
                self.doubled.append(f"task {number}: {self.over[number]}, then {outcome}")
            if not line["right"]:
                self.wrong.append(f"task {number}: {outcome}: {line['why']}")
            self.end(number, outcome)
        elif "wrong" in line:
            self.wrong += line["wrong"]
        elif line.get("doubled"):
            self.doubled.append(f"client {client} got {line['doubled']} results for tasks that were answered")

    def end(self, number: int, outcome: str) -> None:
        self.open.pop(number, None)
        if number not in self.over:
            self.outcomes[outcome] += 1
        self.over[number] = outcome

    def client_killed(self, client: int) -> None:
        """What it had open is canceled with it (LIV-06)."""
        for number in [number for number, who in self.open.items() if who == client]:
            self.end(number, CLIENT_KILLED)

    @property
    def lost(self) -> list[int]:
        """Tasks that nothing was said of."""
        return [number for number in range(self.tasks) if number not in self.over]
