"""Callables as blobs, serialized once where that can't be noticed (SPEC section 7.2)."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from reference_impl.client.objects import Blob, blob
from reference_impl.serialization import serialize, worker_may_lack

_ATOMS = (int, float, bool, str, bytes, type(None))


class _Known(NamedTuple):
    blob: Blob
    code: types.CodeType | None  # None: pickled by reference
    defaults: tuple[Any, ...] | None


class FunctionCache:
    """The blobs of functions whose pickle can't change between two submissions: those that are pickled by reference,
    and those that depend on nothing but their own code. Any other function is pickled for each ``submit`` (once for a
    whole ``map``), since a global, a closure or an attribute may have changed."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()

    def blob(self, function: Callable[..., Any], keywords: Mapping[str, Any] | None = None) -> Blob:
        """Raises what pickling raises. Tasks have positional arguments only: keywords become part of the function."""
        name = function_name(function)
        if keywords:
            return blob(serialize(functools.partial(function, **keywords), by_value=True), name)
        if not isinstance(function, (types.FunctionType, types.BuiltinFunctionType)):  # it may say it equals one
            return blob(serialize(function, by_value=True), name)
        known = self._known.get(function)
        if known is not None and _unchanged(function, known):
            return known.blob
        content = blob(serialize(function, by_value=True), name)
        if _by_reference(function):
            self._known[function] = _Known(content, None, None)
        elif isinstance(function, types.FunctionType) and _depends_on_nothing(function):
            self._known[function] = _Known(content, function.__code__, function.__defaults__)
        return content


def function_name(function: Callable[..., Any]) -> bytes:
    """What people call it."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__)).encode("utf-8", "replace")


def _unchanged(function: Any, known: _Known) -> bool:
    if known.code is None:
        return _by_reference(function)
    return function.__code__ is known.code and function.__defaults__ is known.defaults and _depends_on_nothing(function)


def _by_reference(function: Any) -> bool:
    module_name = getattr(function, "__module__", None)
    if not isinstance(module_name, str) or module_name == "__main__" or worker_may_lack(module_name):
        return False
    return getattr(sys.modules.get(module_name), function.__qualname__, None) is function


def _depends_on_nothing(function: types.FunctionType) -> bool:
    return (
        function.__closure__ is None
        and not function.__dict__
        and not function.__kwdefaults__
        and all(type(value) in _ATOMS for value in function.__defaults__ or ())
        and all(function.__globals__.keys().isdisjoint(names) for names in _names(function.__code__))
    )


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> Sequence[tuple[str, ...]]:
    """All global and attribute names in the code, nested functions included."""
    nested = [names for const in code.co_consts if isinstance(const, types.CodeType) for names in _names(const)]
    return [code.co_names, *nested]


def call_each(function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What runs on the worker for a chunk of ``map``."""
    return [function(*row) for row in rows]


call_each.__module__ = "__main__"  # so that it goes by value: a worker need not have this package
