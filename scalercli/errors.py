"""What a command raises to end with one clear line."""

from __future__ import annotations

from scalercli.exits import ExitCode


class CliError(Exception):
    """Shown as ``error: message`` and ``hint: hint``; the process ends with ``code``."""

    def __init__(self, message: str, hint: str = "", code: int = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class Terminated(BaseException):
    """SIGTERM came."""
