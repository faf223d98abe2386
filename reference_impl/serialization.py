"""Python values as payloads: functions, arguments, results, exceptions, the serializer object (SPEC section 7.2).

A payload is a cloudpickle. A failed task's payload is a pickled exception with its traceback, made so that any
peer with tblib can load it. Errors that both sides know are pickled under the names that opengris-scaler gives
them, and loaded as ours, whichever side sends.
"""

from __future__ import annotations

import io
import os
import pickle
import site
import sys
import sysconfig
import threading
import traceback
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any, TypeVar

import cloudpickle
from tblib.pickling_support import pickle_exception, pickle_traceback

from reference_impl.errors import ProcessorDiedError, RemoteError, WorkerDiedError, described

_PROTOCOL = pickle.HIGHEST_PROTOCOL
_LARGE_BYTES = 1 << 16  # what a pickle has in no frame
_PORTABLE = 4  # understood by every Python that we meet
_BY_TABLE = (ModuleType, TypeVar)  # for these cloudpickle has functions in its table
_BY_VALUE_OR_NOT = (FunctionType, type, *_BY_TABLE)
_NEVER_LACKED = frozenset(("", "__main__", "__mp_main__", "builtins", "cloudpickle.cloudpickle"))
_PLAIN = frozenset((int, float, bool, str, bytes, type(None)))
_OWN_PACKAGES = frozenset(("protocol", "reference_impl", "scalercli", "conformance_tests"))

_PEER_ERRORS = "scaler.utility.exceptions"
_SERIALIZER_NAME = ("scaler.client.serializer.default", "DefaultSerializer")
_SERIALIZER_BASE = ("scaler.client.serializer.mixins", "Serializer")
_REMOTE = "scaler_remote_error"  # the attribute that a carried-over exception has: (type name, message, traceback)


def serialize(obj: object, *, by_value: bool = False) -> bytes:
    """The payload of a function, an argument or a result. Raises what pickling raises.

    Functions and classes of ``__main__`` go by value, others by reference. With ``by_value`` those of every module
    that ``worker_may_lack`` go by value too.
    """
    if type(obj) in _PLAIN:
        return pickle.dumps(obj, _PROTOCOL)
    file = io.BytesIO()
    pickler = _Pickler(file, by_value)
    try:
        pickler.dump(obj)
        return file.getvalue()
    except Exception:
        if not pickler.copies:
            raise
    file = io.BytesIO()  # something that they refer to can't be copied: by reference, then
    _Pickler(file, False).dump(obj)
    return file.getvalue()


def serialize_in_pieces(obj: object) -> list[bytes | memoryview]:
    """The same as buffers, one behind the other: a large ``bytes`` is not copied."""
    if type(obj) is bytes and len(obj) > _LARGE_BYTES:
        pieces = _Pieces()
        pickle.Pickler(pieces, _PROTOCOL).dump(obj)
        return pieces.found
    return [serialize(obj)]


class _Pieces:
    """A file that keeps what is written."""

    def __init__(self) -> None:
        self.found: list[bytes | memoryview] = []

    def write(self, piece: bytes) -> None:
        self.found.append(piece)


def deserialize(payload: bytes | bytearray | memoryview) -> Any:
    """The value in a payload; raises whatever loading it raises. A payload is code: load only what you trust."""
    return pickle.loads(payload)


# ---- modules that a worker may lack ----


def worker_may_lack(module_name: str) -> bool:
    """True for a loaded module that lies in a file outside of the Python installation and its site-packages: a
    script's neighbour, a test, a package in development."""
    if module_name.partition(".")[0] in _OWN_PACKAGES:
        return False
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return isinstance(file, str) and _outside(file)


@lru_cache(maxsize=4096)
def _outside(file: str) -> bool:
    path = Path(file).resolve()
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return False
    return not any(path.is_relative_to(directory) for directory in _installed_directories())


@lru_cache(maxsize=1)
def _installed_directories() -> tuple[Path, ...]:
    names = [p for p in sysconfig.get_paths().values() if p not in (sys.prefix, sys.base_prefix)]
    return tuple(Path(name).resolve() for name in {*names, site.getusersitepackages()})


def _lacked(obj: Any) -> ModuleType | None:
    """The module in which a function or class is, or a package around it, if a worker may lack that."""
    name = obj.__name__ if isinstance(obj, ModuleType) else getattr(obj, "__module__", None)
    while isinstance(name, str) and name not in _NEVER_LACKED:
        module = sys.modules.get(name)
        if isinstance(module, ModuleType) and worker_may_lack(name) and module.__name__ == name:
            return module
        name = name.rpartition(".")[0]
    return None


_registry = threading.RLock()
"""Held while cloudpickle decides, never while anything is pickled: that may take its time, fail, or pickle more."""
os.register_at_fork(before=_registry.acquire, after_in_parent=_registry.release, after_in_child=_registry.release)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Each has its own mind about what goes by value, while cloudpickle has one registry for all threads."""

    def __init__(self, file: io.BytesIO, by_value: bool) -> None:
        super().__init__(file, _PROTOCOL)
        self._by_value = by_value
        self.copies = False
        """Something went by value, that could go by reference."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _BY_VALUE_OR_NOT):
            return NotImplemented
        module = _lacked(obj) if self._by_value else None
        if self._by_value and module is None:  # nobody enters it
            return super().reducer_override(obj)
        with _registry:
            if module is None or module.__name__ in cloudpickle.list_registry_pickle_by_value():
                return self._reduce(obj)
            self.copies = True
            cloudpickle.register_pickle_by_value(module)
            try:
                return self._reduce(obj)
            finally:
                cloudpickle.unregister_pickle_by_value(module)

    def _reduce(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and type(obj) in _BY_TABLE:
            return self.dispatch_table[type(obj)](obj)
        return reduced


# ---- exceptions ----


class _ExceptionPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Carries tracebacks, causes and contexts, as tblib does, without changing how others pickle exceptions."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BaseException):
            return pickle_exception(obj)
        if isinstance(obj, TracebackType):
            return pickle_traceback(obj)
        return super().reducer_override(obj)


def serialize_exception(exception: BaseException) -> bytes:
    """The payload of a failed task. Never fails: what can't be pickled, or not loaded again, is carried over as a
    plain RuntimeError with the type's name, the message and the formatted traceback."""
    if type(exception) in (ProcessorDiedError, WorkerDiedError):
        return _global_call(_PEER_ERRORS, type(exception).__name__, str(exception))
    try:
        buffer = io.BytesIO()
        _ExceptionPickler(buffer, _PORTABLE).dump(exception)
        payload = buffer.getvalue()
        if isinstance(_Unpickler(io.BytesIO(payload)).load(), BaseException):
            return payload
    except Exception:
        pass
    name = type(exception).__name__
    try:
        message = str(exception)
    except Exception:
        message = "(its text can't be had)"
    lines = "".join(traceback.format_tb(exception.__traceback__))
    text = f"Traceback (most recent call last):\n{lines}{name}: {message}\n" if lines else ""
    carrier = RuntimeError(f"{name}: {message}")
    setattr(carrier, _REMOTE, (name, message, text))
    return pickle.dumps(carrier, _PORTABLE)


def deserialize_exception(payload: bytes | bytearray | memoryview) -> BaseException:
    """The exception in a failed task's payload. Never fails: what can't be loaded, or is no exception, becomes a
    RemoteError that says so."""
    try:
        loaded = _Unpickler(io.BytesIO(payload)).load()
        if issubclass(type(loaded), BaseException):
            return _as_ours(loaded)
    except BaseException as error:  # whatever loading it does
        return RemoteError(
            f"the task failed, but its exception can't be loaded here ({described(error)}); "
            f"the payload has {len(payload)} bytes"
        )
    return RemoteError(f"the task failed, but its payload is no exception: {type(loaded).__name__}")


def _as_ours(loaded: BaseException) -> BaseException:
    """An exception as it is to be raised here."""
    carried = getattr(loaded, _REMOTE, None)
    if isinstance(carried, tuple) and len(carried) == 3:
        name, message, text = carried
        return RemoteError(str(message), str(name), str(text))
    if type(loaded) is RemoteError and not loaded.type_name:  # the peer's form: "TypeName: message"
        name, _, message = loaded.message.partition(": ")
        return RemoteError(message, name) if name.isidentifier() else loaded
    return loaded


class _UnknownPeerError(RemoteError):
    """An error that opengris-scaler names and that has no counterpart here, when that package is not installed."""


_ERRORS = {
    "ProcessorDiedError": ProcessorDiedError,
    "WorkerDiedError": WorkerDiedError,
    "TaskExceptionNotSerializableError": RemoteError,
}


class _Unpickler(pickle.Unpickler):
    """Loads the peer's errors as ours."""

    def find_class(self, module: str, name: str) -> Any:
        if module == _PEER_ERRORS:
            if name in _ERRORS:
                return _ERRORS[name]
            try:
                return super().find_class(module, name)
            except ImportError:
                return type(name, (_UnknownPeerError,), {})
        return super().find_class(module, name)


def _global_call(module: str, name: str, text: str) -> bytes:
    """The pickle of ``module.name(text)``, made by hand because the module may not exist here."""
    return b"\x80\x04" + _short(module) + _short(name) + b"\x93" + _long(text) + b"\x85R."


def _short(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes((len(raw),)) + raw


def _long(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw


# ---- the serializer object ----


class PlainSerializer:
    """What a worker uses to load functions and arguments, and to dump results."""

    @staticmethod
    def serialize(obj: object) -> bytes:
        return serialize(obj)

    @staticmethod
    def serialize_in_pieces(obj: object) -> list[bytes | memoryview]:
        return serialize_in_pieces(obj)

    @staticmethod
    def deserialize(payload: bytes | bytearray | memoryview) -> Any:
        return deserialize(payload)


SERIALIZER_PAYLOAD = b"\x80\x04" + _short(_SERIALIZER_NAME[0]) + _short(_SERIALIZER_NAME[1]) + b"\x93)\x81."
"""A pickled instance of opengris-scaler's default serializer, by its name: what every worker understands."""


class _SerializerUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _SERIALIZER_NAME:
            return PlainSerializer
        try:
            return super().find_class(module, name)
        except ImportError:
            if (module, name) == _SERIALIZER_BASE:  # the base class of serializers that are sent by value
                return object
            raise


def load_serializer(payload: bytes | bytearray | memoryview) -> Any:
    """The client's serializer: an object with ``serialize(obj) -> bytes`` and ``deserialize(bytes) -> obj``.

    opengris-scaler's default serializer is loaded as plain cloudpickle, whether that package is there or not.
    Raises what loading raises, and TypeError for something that is no serializer.
    """
    serializer = _SerializerUnpickler(io.BytesIO(payload)).load()
    if not callable(getattr(serializer, "serialize", None)) or not callable(getattr(serializer, "deserialize", None)):
        raise TypeError(f"the client's serializer object is none: {type(serializer).__name__}")
    return serializer
