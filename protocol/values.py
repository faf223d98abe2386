"""``dataclass`` for messages: a frozen one to mypy, and in all but assignment at run time.

That nobody assigns to a field of a message is checked where the program is (mypy), not while it runs: a class that
raises on assignment takes twice as long to be made, and its objects three times, since their fields have to be set
behind its back. A role makes some 60 such classes when it starts, and its messages by the thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses

    def dataclass(*, frozen: bool, slots: bool) -> Any:
        """Compares and hashes by content."""
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["dataclass"]
