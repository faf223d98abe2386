"""The sixteen combinations: four roles, each ours or the peer's."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

OURS, PEER = "ours", "2.9.0"


class Combination(NamedTuple):
    """Who plays which role: OURS or PEER."""

    client: str
    scheduler: str
    worker: str
    storage: str

    @property
    def name(self) -> str:
        """As short as ``OOPO``: client, scheduler, worker, storage."""
        return "".join("O" if who == OURS else "P" for who in self)

    @classmethod
    def parse(cls, name: str) -> Combination:
        """The inverse of ``name``; raises ValueError."""
        if len(name) != 4 or set(name.upper()) - {"O", "P"}:
            raise ValueError(f"{name!r} is no combination: four letters, O (ours) or P (peer), for example OPOO")
        return cls(*(OURS if letter == "O" else PEER for letter in name.upper()))


ALL = [Combination(*roles) for roles in product((OURS, PEER), repeat=4)]
SWAPS = [Combination.parse(name) for name in ("POOO", "OPOO", "OOPO", "OOOP", "OPPP", "POPP", "PPOP", "PPPO")]
"""One role swapped: the peer's among ours, and ours among the peer's."""
