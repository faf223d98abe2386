"""Futures as arguments of other tasks (SPEC section 9): what of them goes into a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from typing import Any

from protocol.messages import TaskResultType
from reference_impl.client.future import RawResult, ScalerFuture
from reference_impl.client.instructions import NewTask, ResultOf, Starved
from reference_impl.client.objects import Blob, blob
from reference_impl.client.waiting import starve
from reference_impl.serialization import serialize


def argument_of(future: ScalerFuture) -> Blob | ResultOf:
    """A future as an argument: its value if it is here, else the result of its task. Raises what pickling raises."""
    if not future.done() or future._failure() is not None:
        return ResultOf(future.task_id)
    try:
        value = future.result(0)
    except CancelledError:
        return ResultOf(future.task_id)
    if not isinstance(value, RawResult):
        return blob(serialize(value, by_value=True))
    return blob(value.payload) if value.type is TaskResultType.SUCCESS else ResultOf(future.task_id)


def settle(task: NewTask, future: ScalerFuture) -> NewTask | None:
    """The task with the values of those futures that are done by now; None if it can't run any more, and then its
    future has ended. Only for the client's I/O thread, in which futures end."""
    done = {needed.task_id: needed for needed in future._needs if needed.done()}
    if not done:
        return task
    arguments: list[Blob | ResultOf] = []
    for argument in task.arguments:
        if isinstance(argument, ResultOf) and (needed := done.get(argument.task_id)) is not None:
            try:
                argument = argument_of(needed)
            except BaseException as error:  # also a SystemExit must not end this thread
                future._end(None, error)
                return None
            if isinstance(argument, ResultOf):
                if needed.cancelled():
                    future._end_canceled()
                else:
                    starve(future, Starved(needed.task_id))
                return None
        arguments.append(argument)
    return task._replace(arguments=tuple(arguments))


def futures_in(values: Iterable[Any]) -> tuple[ScalerFuture, ...]:
    """The futures among these, each once."""
    return tuple(dict.fromkeys([value for value in values if isinstance(value, ScalerFuture)]))


def with_keywords(
    function: Callable[..., Any], names: tuple[str, ...], keywords: Mapping[str, Any], *arguments: Any
) -> Any:
    """What runs on the worker where keyword arguments are futures: the last arguments have these names."""
    count = len(arguments) - len(names)
    named = dict(zip(names, arguments[count:], strict=True))
    return function(*arguments[:count], **keywords, **named)


with_keywords.__module__ = "__main__"  # so that it goes by value: a worker need not have this package
