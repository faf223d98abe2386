"""Lets a client of opengris-scaler that runs inside a task of this worker see where it is.

That client asks its own package for the processor around it, for the addresses and for the priority of the task. Here
there is none, so as soon as a task imports that package, it gets a stand-in that answers.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from protocol.payloads import TaskMetadata
from reference_impl import nesting

_MODULE = "scaler.worker.agent.processor.processor"
_VARIABLE = "_current_processor"  # a ContextVar in that module
_BACKEND = "SCALER_NETWORK_BACKEND"


class _StandIn:
    """The part of a processor that the client asks."""

    def __init__(self, address: Any) -> None:
        self._address = address

    @staticmethod
    def _inside() -> nesting.Inside:
        inside = nesting.surroundings()
        assert inside is not None
        return inside

    def current_task(self) -> SimpleNamespace:
        return SimpleNamespace(metadata=TaskMetadata(priority=max(0, self._inside().priority)).to_bytes())

    def scheduler_address(self) -> Any:
        return self._address(self._inside().scheduler)

    def object_storage_address(self) -> Any:
        return self._address(self._inside().storage)


class _Always:
    """In place of the context variable: a client may be used from any thread of the task."""

    def __init__(self, value: object) -> None:
        self._value = value

    def get(self, *default: object) -> object:
        return self._value

    def set(self, value: object) -> None:
        """A processor of that package, which nobody starts here."""


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        address = getattr(module, "AddressConfig", None)
        if hasattr(module, _VARIABLE) and address is not None:
            setattr(module, _VARIABLE, _Always(_StandIn(address.from_string)))


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """To be called once in a process that runs tasks; costs nothing while no task imports that package."""
    sys.meta_path.insert(0, _Finder())
    os.environ.setdefault(_BACKEND, "zmq")  # what the scheduler of this worker speaks
