"""Payloads: functions by value, exceptions with their tracebacks, the names shared with opengris-scaler (SPEC 7.2)."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest

from reference_impl.client.functions import FunctionCache, call_each, function_name
from reference_impl.errors import ProcessorDiedError, RemoteError, WorkerDiedError
from reference_impl.serialization import (
    SERIALIZER_PAYLOAD,
    PlainSerializer,
    deserialize,
    deserialize_exception,
    load_serializer,
    serialize,
    serialize_exception,
    serialize_in_pieces,
    worker_may_lack,
)

ROOT = Path(__file__).parents[2]


class Picky(Exception):
    """Can't be made from its args alone."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


def helper(x: int) -> int:
    return x + 1


def uses_helper(x: int) -> int:
    return helper(x) * 2


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize("value", [None, 1, 1.5, "text", b"bytes", [1, {"a": (2,)}], math.sin])
def test_values_come_back(value: object) -> None:
    assert deserialize(serialize(value)) == value
    assert deserialize(serialize(value, by_value=True)) == value


def test_functions_of_modules_that_a_worker_may_lack_go_by_value_with_what_they_use(tmp_path: Path) -> None:
    assert worker_may_lack(__name__.rpartition(".")[2]) is False  # not loaded under that name
    assert worker_may_lack(__name__)
    assert not worker_may_lack("math") and not worker_may_lack("json") and not worker_may_lack("cloudpickle")
    assert not worker_may_lack("reference_impl.errors")
    payload = tmp_path / "payload"
    payload.write_bytes(serialize((uses_helper, Picky), by_value=True))
    code = f"import pickle; f, p = pickle.load(open({str(payload)!r}, 'rb')); print(f(1), p.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "4 Picky\n"
    assert cloudpickle.list_registry_pickle_by_value() == set()
    back, exception_class = deserialize(payload.read_bytes())
    assert back(1) == 4 and exception_class is Picky


def test_what_can_not_go_by_value_goes_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked_module.py").write_text("import threading\nlock = threading.Lock()\ndef f():\n    return lock\n")
    monkeypatch.syspath_prepend(tmp_path)
    import locked_module  # type: ignore[import-not-found]

    assert deserialize(serialize(locked_module.f, by_value=True)) is locked_module.f


class Equal:
    """Says that it is a function, and is none."""

    def __call__(self, path: str) -> str:
        return "mine"

    def __hash__(self) -> int:
        return hash(os.path.basename)

    def __eq__(self, other: object) -> bool:
        return True


def test_a_callable_that_is_equal_to_a_function_is_not_that_one() -> None:
    functions = FunctionCache()
    functions.blob(os.path.basename)
    assert deserialize(functions.blob(Equal()).payload)("p") == "mine"


class Reduced:
    """Calls a function when it is pickled, and what comes back is its result. That may be once only."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.called = False

    def __reduce__(self) -> tuple[object, ...]:
        assert not self.called
        self.called = True
        return list, ([self.call()],)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """Two that a worker may lack; the second can't go by value."""
    text = "import typing\nT = typing.TypeVar('T')\ndef f(x):\n    return x + 1\n"
    (tmp_path / "free_module.py").write_text(text)
    (tmp_path / "held_module.py").write_text("import threading\nlock = threading.Lock()\ndef f():\n    return lock\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("free_module"), importlib.import_module("held_module")
    for name in ("free_module", "held_module"):
        sys.modules.pop(name, None)


def assert_right(free: ModuleType, held: ModuleType) -> None:
    back = deserialize(serialize(free.f, by_value=True))
    assert back is not free.f and back(1) == 2
    assert deserialize(serialize(held.f, by_value=True)) is held.f
    assert deserialize(serialize(free.f)) is free.f


def test_whatever_of_a_module_that_a_worker_may_lack_goes_by_value(modules: tuple[ModuleType, ModuleType]) -> None:
    free, _ = modules
    back = deserialize(serialize(free, by_value=True))
    assert back is not free and back.f(1) == 2
    assert b"free_module" not in serialize(free.T, by_value=True)
    assert b"free_module" in serialize(free.T)
    assert deserialize(serialize(math, by_value=True)) is math


def test_what_is_pickled_may_pickle_something_else(modules: tuple[ModuleType, ModuleType]) -> None:
    assert deserialize(serialize(Reduced(lambda: assert_right(*modules)), by_value=True)) == [None]


def test_what_is_pickled_may_wait_for_another_thread_that_pickles(modules: tuple[ModuleType, ModuleType]) -> None:
    with ThreadPoolExecutor(1) as pool:
        waits = Reduced(lambda: pool.submit(assert_right, *modules).result(20))
        assert deserialize(serialize(waits, by_value=True)) == [None]


def test_a_fork_while_something_is_pickled_leaves_a_child_that_can(modules: tuple[ModuleType, ModuleType]) -> None:
    def fork() -> int:
        child = os.fork()
        if not child:
            signal.alarm(20)
            with contextlib.suppress(BaseException):
                assert_right(*modules)
                os._exit(0)
            os._exit(1)
        return os.waitpid(child, 0)[1]

    with ThreadPoolExecutor(1) as pool:
        assert deserialize(serialize(Reduced(lambda: pool.submit(fork).result()), by_value=True)) == [0]


def test_modules_that_are_gone_or_can_not_be_looked_at_are_in_nobody_s_way(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise ImportError(name)

    free, _ = modules
    serialize(free.f, by_value=True)
    monkeypatch.setitem(sys.modules, "lazy_module", Lazy("lazy_module"))
    del sys.modules["held_module"]  # there are as many as before
    back = deserialize(serialize(free.f, by_value=True))
    assert back is not free.f and back(1) == 2


def test_what_can_not_be_pickled_is_tried_once() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ValueError("mine")

    class Failing:
        __reduce__ = staticmethod(fail)

    with pytest.raises(ValueError, match="mine"):
        serialize([math, Failing()], by_value=True)
    assert calls == [1]


def test_an_exception_carries_traceback_cause_and_attributes() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise Picky(7, reason="why") from inner
    except Picky as error:
        payload = serialize_exception(error)
    back = deserialize_exception(payload)
    assert isinstance(back, Picky) and back.code == 7 and str(back) == "7: why"
    assert isinstance(back.__cause__, KeyError)
    assert "test_an_exception_carries" in "".join(traceback.format_tb(back.__traceback__))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("lock", threading.Lock()),
        type("Local", (Exception,), {"__reduce__": lambda self: (_fail, ())})("text"),
    ],
)
def test_an_exception_that_can_not_travel_becomes_a_plain_one_that_any_peer_can_load(error: Exception) -> None:
    payload = serialize_exception(raised(error))
    plain = pickle.loads(payload)
    assert type(plain) is RuntimeError and type(error).__name__ in str(plain)
    back = deserialize_exception(payload)
    assert isinstance(back, RemoteError)
    assert back.type_name == type(error).__name__ and back.message == str(error)
    assert "in raised" in back.traceback_text and "in raised" in str(back)


def _fail() -> None:
    raise OSError("can't be made")


@pytest.mark.parametrize("error", [ProcessorDiedError("killed by SIGKILL"), WorkerDiedError("gone")])
def test_known_errors_travel_under_the_peers_names_and_come_back_as_ours(error: Exception) -> None:
    payload = serialize_exception(error)
    assert b"scaler.utility.exceptions" in payload and type(error).__name__.encode() in payload
    back = deserialize_exception(payload)
    assert type(back) is type(error) and str(back) == str(error)


def _of_peer(name: str) -> bytes:
    return serialize_exception(ProcessorDiedError("text")).replace(
        b"\x12ProcessorDiedError", bytes((len(name),)) + name.encode()
    )


def test_errors_that_only_the_peer_knows_are_remote_errors() -> None:
    assert isinstance(deserialize_exception(_of_peer("TaskExceptionNotSerializableError")), RemoteError)
    back = deserialize_exception(_of_peer("NoWorkerError"))
    assert type(back).__name__ == "NoWorkerError" and str(back) == "text"


def test_a_peers_exception_that_could_not_be_pickled_shows_its_type_and_text() -> None:
    """As a worker of opengris-scaler 2.9.0 pickles it, with tblib installed: without a call of the class."""
    payload = (
        b"\x80\x04\x8c\x16tblib.pickling_support\x8c\x1dunpickle_exception_with_attrs\x93("
        b"\x8c\x19scaler.utility.exceptions\x8c!TaskExceptionNotSerializableError\x93"
        b"}(\x8c\x08__dict__}\x8c\x04args\x8c\x12OutOfCheese: gouda\x85uNNN\x89NtR."
    )
    error = deserialize_exception(payload)
    assert isinstance(error, RemoteError)
    assert (error.type_name, error.message, error.traceback_text) == ("OutOfCheese", "gouda", "")
    assert str(error) == "OutOfCheese: gouda"


def test_errors_of_the_peer_that_have_no_counterpart_here_have_a_text() -> None:
    payload = b"\x80\x04\x8c\x19scaler.utility.exceptions\x8c\x0eSchedulerError\x93\x8c\x04oops\x85\x81."
    assert str(deserialize_exception(payload)) == "oops"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "can't be loaded"),
        (b"garbage", "can't be loaded"),
        (pickle.dumps(1), "is no exception: int"),
        (b"\x80\x04\x8c\x0cno_such_mod_\x8c\x01E\x93)R.", "no_such_mod_"),
    ],
)
def test_a_failure_that_can_not_be_loaded_says_why(payload: bytes, text: str) -> None:
    error = deserialize_exception(payload)
    assert isinstance(error, RemoteError) and text in str(error)


def test_the_default_serializer_is_known_by_its_name_alone() -> None:
    serializer = load_serializer(SERIALIZER_PAYLOAD)
    assert isinstance(serializer, PlainSerializer)
    assert serializer.deserialize(serializer.serialize([1])) == [1]


def test_a_serializer_sent_by_value_is_loaded() -> None:
    scope: dict[str, object] = {}
    source = """
    class Own:
        @staticmethod
        def serialize(obj): return repr(obj).encode()
        @staticmethod
        def deserialize(payload): return eval(payload)
    """
    exec(textwrap.dedent(source), {"__name__": "__main__"}, scope)
    serializer = load_serializer(cloudpickle.dumps(scope["Own"]()))
    assert serializer.serialize((1,)) == b"(1,)"


def test_what_is_no_serializer_is_refused() -> None:
    with pytest.raises(TypeError, match="none: int"):
        load_serializer(pickle.dumps(1))


# ---- which functions are pickled again ----


def test_stable_functions_are_pickled_once() -> None:
    cache = FunctionCache()

    def alone(x: int, y: int = 2) -> int:
        return sum(i + y for i in range(x))

    for function in (math.sin, alone):
        assert cache.blob(function) is cache.blob(function)


def test_functions_that_may_change_are_pickled_again() -> None:
    cache = FunctionCache()
    cell = [1]

    def closure() -> int:
        return cell[0]

    def mutable(x: list[int] = cell) -> int:
        return x[0]

    for function in (closure, mutable, uses_helper, lambda: cell):
        first = cache.blob(function)
        assert cache.blob(function) is not first
    before = cache.blob(closure).digest
    cell[0] = 2
    assert cache.blob(closure).digest != before


def test_a_changed_function_is_noticed() -> None:
    cache = FunctionCache()

    def alone(x: int = 1) -> int:
        return x

    first = cache.blob(alone)
    alone.__defaults__ = (2,)
    second = cache.blob(alone)
    assert deserialize(first.payload)() == 1 and deserialize(second.payload)() == 2
    alone.__code__ = (lambda x=1: -x).__code__
    assert deserialize(cache.blob(alone).payload)() == -2


def test_names_and_keywords() -> None:
    cache = FunctionCache()
    content = cache.blob(int, {"base": 8})
    assert content.name == b"int" and deserialize(content.payload)("20") == 16
    assert function_name(Picky(1, reason="")) == b"Picky"  # type: ignore[arg-type]
    assert call_each(divmod, [(7, 2)]) == [(3, 1)]


def test_a_payload_in_pieces_is_the_same() -> None:
    for value in (b"x" * 100_000, bytearray(100_000), "x" * 100_000, b"", [b"x" * 100_000], None):
        assert b"".join(serialize_in_pieces(value)) == serialize(value)
    large = bytes(1 << 20)
    assert any(piece is large for piece in serialize_in_pieces(large)), "it is not copied"
