"""What ``--preload`` names: modules that are imported once, in the process that processors are forked from, and
functions that each processor calls before its first task."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from reference_impl.errors import described

VARIABLE = "_SCALER_WORKER_PRELOAD"
"""In the environment of the zygote: what is to be preloaded, a line each."""

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Preload(NamedTuple):
    """One of them. Without a ``function`` the import is all."""

    text: str
    module: str
    function: str = ""
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def parse(text: str) -> Preload:
        """``MODULE``, ``MODULE:FUNCTION`` or ``MODULE:FUNCTION(ARGUMENTS)``, where arguments are Python literals.
        Raises ValueError."""
        module, colon, call = text.partition(":")
        if "\n" in text or not _MODULE.fullmatch(module):
            raise ValueError(f"{module!r} is no name of a module")
        if not colon:
            return Preload(text, module)
        try:
            expression = ast.parse(call.strip(), mode="eval").body
            arguments: tuple[Any, ...] = ()
            keywords: tuple[tuple[str, Any], ...] = ()
            if isinstance(expression, ast.Call):
                arguments = tuple([ast.literal_eval(argument) for argument in expression.args])
                if any(word.arg is None for word in expression.keywords):
                    raise ValueError("**")
                keywords = tuple([(str(word.arg), ast.literal_eval(word.value)) for word in expression.keywords])
                expression = expression.func
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"{call!r} is no FUNCTION or FUNCTION(ARGUMENTS) with literals as arguments") from None
        if not isinstance(expression, ast.Name):
            raise ValueError(f"{call!r} does not begin with the name of a function")
        return Preload(text, module, expression.id, arguments, keywords)

    def load(self) -> Callable[[], object] | None:
        """Imports the module; returns what is to be called in each processor. Raises what the import raises,
        AttributeError, TypeError."""
        module = importlib.import_module(self.module)
        if not self.function:
            return None
        function = getattr(module, self.function)
        if not callable(function):
            raise TypeError(f"{self.function} can't be called")
        return lambda: function(*self.arguments, **dict(self.keywords))


class Preloads:
    """All of them, in one process and those forked from it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.fault = ""
        """What went wrong, in one line."""
        self._calls: list[tuple[str, Callable[[], object]]] = []
        for preload in map(Preload.parse, texts):
            call = self._attempt(preload.text, preload.load)
            if call is not None:
                self._calls.append((preload.text, call))

    def call(self) -> None:
        """In a processor: calls the functions, unless something has gone wrong already."""
        for text, call in self._calls:
            self._attempt(text, call)

    def _attempt(self, text: str, call: Callable[[], Any]) -> Any:
        if self.fault:
            return None
        try:
            return call()
        except BaseException as error:  # a SystemExit of theirs is a fault, too
            self.fault = f"--preload {text}: {' '.join(described(error).split())}".removesuffix(":")
            return None
