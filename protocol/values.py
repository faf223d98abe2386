"""``dataclass`` for messages: a frozen one to mypy, and in all but assignment at run time.

That nobody assigns to a field of a message is checked by mypy, not while the program runs: objects that raise on
assignment take three times as long to be made, since their fields have to be set behind their back. And each method
that ``dataclasses`` writes has to be compiled when a role starts, for some 60 classes: here only ``__init__`` is.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """As ``dataclasses.dataclass(frozen=True)``: compares and hashes by content, shows all of it."""

        def made(plain: type) -> type:
            cls = dataclasses.dataclass(slots=slots, eq=False, repr=False)(plain)
            names = cls.__match_args__
            content = attrgetter(*names) if names else _nothing

            def equal(self: Any, other: object) -> bool:
                return content(self) == content(other) if other.__class__ is self.__class__ else NotImplemented

            def hashed(self: Any) -> int:
                return hash(content(self))

            cls.__eq__, cls.__hash__, cls.__repr__ = equal, hashed, _shown
            return cls

        return made


def _nothing(value: object) -> tuple[()]:
    """The content of what has no fields."""
    return ()


def _shown(self: Any) -> str:
    cls = type(self)
    return f"{cls.__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in cls.__match_args__])})"


__all__ = ["dataclass"]
