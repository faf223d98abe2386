"""The named errors of the roles (SPEC sections 5.5, 8 and 9)."""

from __future__ import annotations


def described(error: BaseException) -> str:
    """``TypeName: text``, also where the exception can't say its text."""
    try:
        text = str(error)
    except BaseException:
        text = "(its text can't be had)"
    return f"{type(error).__name__}: {text}"


class WorkerDiedError(Exception):
    """Too many workers were lost while they held the task (TSK-07)."""


class ProcessorDiedError(Exception):
    """The process that ran the task ended before the task did. The text names the signal or the exit code."""


class DependencyFailed(Exception):
    """A task could not run because a task whose result it needs has failed. ``__cause__`` is that task's exception."""


class RemoteError(Exception):
    """A task failed with something that could not be carried over as it was.

    ``type_name`` is the class of the exception on the worker, ``traceback_text`` its formatted traceback; each is
    empty where it is not known.
    """

    def __init__(self, message: str, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message, type_name, traceback_text)

    # Read from ``args``, because a peer's pickle may make an instance without calling ``__init__``.

    @property
    def message(self) -> str:
        return self._argument(0)

    @property
    def type_name(self) -> str:
        return self._argument(1)

    @property
    def traceback_text(self) -> str:
        return self._argument(2)

    def _argument(self, index: int) -> str:
        return str(self.args[index]) if index < len(self.args) else ""

    def __str__(self) -> str:
        text = f"{self.type_name}: {self.message}" if self.type_name else self.message
        return f"{text}\n\n{self.traceback_text.rstrip()}" if self.traceback_text else text


class SchedulerLost(ConnectionError):
    """The scheduler was silent for longer than the client's timeout, or it ended."""


class SchedulerUnreachable(ConnectionError):
    """No scheduler answered at the address in time."""


class ClusterProtected(Exception):
    """The scheduler was started so that clients can't shut it down (LIV-10)."""


class StorageFull(Exception):
    """The object storage has no room for an object, neither in memory nor on disk, and has refused it (STO-22)."""


class StorageUnreachable(ConnectionError):
    """The object storage that the scheduler names can't be reached, or the scheduler names none."""
