"""Objects for worker and client runs: functions, values and serializers as payloads, and payloads as values.

Functions are written in the scenario and travel by value (cloudpickle), so that a worker needs nothing of the engine.
In them ``gate("name")`` tells the engine that the task has got there, and waits until a step releases it.
"""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from typing import Any

import cloudpickle
import tblib.pickling_support

from protocol.fields import BadFields, Fields

SERIALIZER = b"\x80\x02cscaler.client.serializer.default\nDefaultSerializer\n)\x81."
"""The serializer object of a client of opengris-scaler: an instance of this class by reference (OBJ-13)."""

_GATE = """
def gate(name):
    import json, socket
    connection = socket.create_connection(("127.0.0.1", {port}))
    connection.sendall(name.encode() + b"\\n")
    line = connection.makefile().readline()
    if not line:
        raise ConnectionError("the engine is gone")
    return json.loads(line)
"""


def function(source: str, gate_port: int) -> bytes:
    """The payload of a function: a lambda expression, or ``def`` statements of which the last counts."""
    space: dict[str, Any] = {"__name__": "conformance_task"}
    exec(_GATE.format(port=gate_port), space)
    before = set(space)
    try:
        if source.lstrip().startswith("lambda"):
            made = eval(source, space)
        else:
            exec(source, space)
            made = [space[name] for name in space if name not in before and callable(space[name])][-1]
    except (SyntaxError, IndexError, NameError) as error:
        raise BadFields(f"python: no function: {error}") from None
    return bytes(cloudpickle.dumps(made))


def content(fields: Fields, gate_port: int) -> bytes:
    """The payload that a ``put`` describes; raises BadFields."""
    if "python" in fields:
        return function(_text(fields["python"]), gate_port)
    if "value" in fields:
        return bytes(cloudpickle.dumps(fields["value"]))
    if fields.get("serializer"):
        return SERIALIZER
    if "raises" in fields:
        return _exception(_text(fields["raises"]))
    if "content" in fields:
        raw = fields["content"]
        return raw.encode() if isinstance(raw, str) else bytes(raw)
    raise BadFields("put: one of python, value, serializer, raises, content was expected")


def _exception(text: str) -> bytes:
    name, _, message = text.partition(": ")
    try:
        raise getattr(__import__("builtins"), name)(message)
    except AttributeError:
        raise BadFields(f"raises: there is no built-in exception {name}") from None
    except Exception as error:
        tblib.pickling_support.install(error)
        return pickle.dumps(error, 4)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _Lenient(pickle.Unpickler):
    """What is not installed here becomes an exception of the same name: an implementation may have its own."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (Exception,), {"__module__": module})


def read(payload: bytes) -> Fields:
    """What a payload holds: ``value`` (of JSON's types, else its repr), or ``raises`` and ``text``; ``unreadable`` if
    it can't be loaded. The engine plays the client here: it runs the code of the implementation under test."""
    with suppress(Exception):
        tblib.pickling_support.install()
    try:
        loaded = _Lenient(io.BytesIO(payload)).load()
    except Exception as error:
        return {"unreadable": f"{type(error).__name__}: {error}", "size": len(payload)}
    if isinstance(loaded, BaseException):
        return {"raises": type(loaded).__name__, "text": str(loaded), "size": len(payload)}
    plain = isinstance(loaded, (int, float, str, bool, list, dict, bytes, type(None)))
    return {"value": loaded if plain else repr(loaded), "size": len(payload)}
