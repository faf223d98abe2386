"""From what a person types to a function and its arguments, resolved, bound and pickled before anything is sent.

Every mistake that can be found here is: a module or attribute that is not there, something that can't be called,
wrong arguments, arguments that can't be pickled. Each is a CliError with exit code 2.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from protocol.control import MAX_PAYLOAD_BYTES
from scalercli.errors import CliError


class Place(NamedTuple):
    """Where on the worker a task runs; None and empty leave things as they are."""

    cwd: str | None = None
    env: Mapping[str, str] = MappingProxyType({})


ANYWHERE = Place()
_OPTIONS = ("--output", "-o", "--json", "--quiet", "-q", "--cluster", "--dry-run")


class Target(NamedTuple):
    """A callable that was found."""

    name: str
    function: Callable[..., Any]
    signature: inspect.Signature | None


class Call(NamedTuple):
    """A function and its arguments, pickled; and for people, what they are."""

    function: bytes
    arguments: tuple[bytes, ...]
    shown: str
    bound: tuple[Any, ...]


def resolve(text: str) -> Target:
    """The callable that ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION`` names."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise CliError(
            f"{text!r} is not MODULE:FUNCTION", "for example math:factorial, or -- COMMAND for a command line"
        )
    module = _load_file(place) if place.endswith(".py") else _load_module(place)
    function: Any = module
    for part in name.split("."):
        try:
            function = getattr(function, part)
        except AttributeError:
            raise CliError(f"{place} has no {name!r}", _similar(place, part, dir(function))) from None
    if not callable(function):
        raise CliError(f"{text} can't be called: it is of type {type(function).__name__}")
    try:
        signature: inspect.Signature | None = inspect.signature(function)
    except (ValueError, TypeError):
        signature = None  # many built-ins have none: what is wrong with their arguments shows when they run
    return Target(text, function, signature)


def bind(target: Target, words: Sequence[str], where: Place = ANYWHERE) -> Call:
    """The call with these ARGs, pickled."""
    positional, keywords = arguments(target, words)
    shown = " ".join([target.name, *words])
    pickled = tuple(pickled_argument(value, f"argument {i + 1}") for i, value in enumerate(positional))
    function = placed_function(with_keywords(target, keywords), where, target.name)
    return Call(function, pickled, shown, (*positional, *keywords.items()))


def arguments(target: Target, words: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments that these ARGs mean: JSON where it parses, else strings;
    ``name=value`` where name is a parameter. Arguments travel by position, so only those that have to are keywords."""
    names = _keywords(target.signature)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in names:
            if name in keywords:
                raise CliError(f"{target.name}: the argument {name!r} was given twice")
            keywords[name] = parse(value)
        else:
            positional.append(parse(word))
    if target.signature is None:
        return tuple(positional), keywords
    try:
        bound = target.signature.bind(*positional, **keywords)
    except TypeError as error:
        hint = f"its signature is {_name(target)}{target.signature}"
        if any(word in _OPTIONS for word in words):
            hint += "; options stand before MODULE:FUNCTION"
        raise CliError(f"{target.name}: {error}", hint) from None
    return bound.args, bound.kwargs


def with_keywords(target: Target, keywords: dict[str, Any]) -> Callable[..., Any]:
    """The function with its keyword arguments made part of it."""
    return partial(target.function, **keywords) if keywords else target.function


def parse(word: str) -> Any:
    """JSON if it parses as JSON, else the word itself."""
    try:
        return json.loads(word, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return word


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON, though Python takes it")


def command_function(forward_environment: bool, where: Place) -> bytes:
    """The pickled function that runs a command line, given its words, on a worker: in this directory, unless
    ``where`` names another."""
    from reference_impl.worker import commands

    cwd = where.cwd or os.getcwd()  # noqa: PTH109 (a string is wanted)
    env = dict(os.environ) if forward_environment else None
    return _by_value(
        commands, partial(commands.run_command, cwd=cwd, env=env, changes=dict(where.env) or None), "the command"
    )


def placed_function(function: Callable[..., Any], where: Place, name: str) -> bytes:
    """The pickled function, so that it runs in that directory and environment."""
    if where.cwd is None and not where.env:
        return pickled_function(function, name)
    from reference_impl.worker import commands

    return _by_value(commands, partial(commands.call_there, function, where.cwd, dict(where.env)), name)


def _by_value(module: Any, function: object, name: str) -> bytes:
    """The pickled function; what it takes from ``module`` need not be on the worker."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    try:
        return pickled_function(function, name)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def pickled_function(function: object, name: str) -> bytes:
    return _pickled(function, f"{name} can't be sent")


def pickled_argument(value: object, what: str) -> bytes:
    return _pickled(value, f"{what} can't be sent")


def _pickled(value: object, complaint: str) -> bytes:
    from reference_impl.serialization import serialize

    try:
        payload = serialize(value, by_value=True)
    except Exception as error:
        raise CliError(f"{complaint}: {type(error).__name__}: {error}") from None
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise CliError(f"{complaint}: it has {len(payload)} bytes, {MAX_PAYLOAD_BYTES} are the most")
    return payload


def _keywords(signature: inspect.Signature | None) -> set[str]:
    if signature is None:
        return set()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in signature.parameters.values() if p.kind in kinds}


def _load_module(name: str) -> Any:
    here = os.getcwd()  # noqa: PTH109
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            hint = f"a file is named with its ending: {name.replace('.', '/')}.py:FUNCTION"
            import difflib

            if close := difflib.get_close_matches(name, sys.stdlib_module_names, 1):
                hint = f"did you mean {close[0]}? A file is named with its ending: {name.replace('.', '/')}.py:FUNCTION"
            raise CliError(f"there is no module {name!r}", hint) from None
        raise CliError(f"the module {name!r} can't be loaded: {error}") from None
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # a module may do anything when it is loaded, sys.exit too
        raise CliError(f"the module {name!r} can't be loaded: {type(error).__name__}: {error}") from None


def _load_file(text: str) -> Any:
    path = Path(text).absolute()
    if not path.is_file():
        raise CliError(f"there is no file {text}", "ls *.py")
    directory = str(path.parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CliError(f"{text} can't be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise CliError(f"{text} can't be loaded: {type(error).__name__}: {error}") from None
    return module


def _similar(place: str, name: str, names: Sequence[str]) -> str:
    import difflib

    found = difflib.get_close_matches(name, [n for n in names if not n.startswith("_")], 3)
    return f"did you mean {' or '.join(f'{place}:{n}' for n in found)}?" if found else ""


def _name(target: Target) -> str:
    return target.name.rpartition(":")[2]
