"""The command ``scalercli``: which commands there are, and how every one of them ends.

A command's module is imported when that command runs, so that each starts as fast as it can.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

import scalercli
from scalercli import examples, options, plain_values, settings
from scalercli.errors import CliError, Terminated
from scalercli.exits import ExitCode
from scalercli.output import Mode, show_error

COMMANDS = {
    "submit": "scalercli.commands.submit",
    "run": "scalercli.commands.run",
    "map": "scalercli.commands.map",
    "status": "scalercli.commands.status",
    "wait": "scalercli.commands.wait",
    "result": "scalercli.commands.result",
    "logs": "scalercli.commands.logs",
    "cancel": "scalercli.commands.cancel",
    "retry": "scalercli.commands.retry",
    "explain": "scalercli.commands.explain",
    "top": "scalercli.commands.top",
    "cluster": "scalercli.commands.cluster",
    "config": "scalercli.commands.config",
    "keys": "scalercli.commands.keys",
    "doctor": "scalercli.commands.doctor",
    "completion": "scalercli.commands.completion",
    "help": "scalercli.commands.help",
    "scheduler": "scalercli.commands.roles",
    "worker": "scalercli.commands.roles",
    "worker-manager": "scalercli.commands.roles",
    "object-storage": "scalercli.commands.roles",
    "trace": "scalercli.commands.trace",
    "conformance": "scalercli.commands.conformance",
}
"""Name to the module whose ``apps`` maps the name to a typer application."""

_CLICK_ERROR: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")
_CLICK_USAGE_ERROR: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "UsageError")


class LazyGroup(TyperGroup):
    """Loads a command when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        app = importlib.import_module(COMMANDS[cmd_name]).apps[cmd_name]
        command: Any = typer.main.get_command(app)
        command.name = cmd_name
        plain_values.use(command)
        examples.attach(command, cmd_name)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, 2)
            hint = f"did you mean {' or '.join(close)}?" if close else "scalercli --help lists the commands"
            raise CliError(f"there is no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    help="Run Python functions and commands as tasks of a Scaler cluster, and watch, wait for and cancel them.",
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"scalercli {scalercli.__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="The version, and no more."
    ),
    cluster: options.ClusterOption = None,
    key_file: options.KeyFileOption = None,
    server_key: options.ServerKeyOption = None,
) -> None:
    # Before the command's name they count as they do after it.
    for name, value in (("cluster", cluster), ("key_file", key_file), ("server_key", server_key)):
        if value is not None:
            os.environ[settings.KNOWN[name].variable] = value
            settings.given_before.add(name)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started us
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _forget_stdout()
        return ExitCode.CLOSED_PIPE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Terminated:
        return ExitCode.TERMINATED
    except CliError as error:
        show_error(error, as_json=_errors_as_json(arguments))
        return error.code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
            _forget_stdout()
            full = CliError(f"can't write the output: {error.strerror}", "", ExitCode.INTERNAL)
            show_error(full, as_json=_errors_as_json(arguments))
            return ExitCode.INTERNAL
        if isinstance(error, FileNotFoundError) and not _has_directory():
            gone = CliError("the current directory does not exist any more", "cd")
            show_error(gone, as_json=_errors_as_json(arguments))
            return ExitCode.USAGE
        show_error(_internal(error), as_json=_errors_as_json(arguments))
        return ExitCode.INTERNAL
    finally:
        if "scalercli.link" in sys.modules:
            sys.modules["scalercli.link"].close_all()


def _run(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _terminate)
    command: Any = typer.main.get_command(app)
    plain_values.use(command)
    examples.attach(command, "")
    if instruction := os.environ.get("_SCALERCLI_COMPLETE"):
        from scalercli import completion

        return completion.respond(command, instruction)
    try:
        with command.make_context("scalercli", list(arguments)) as context:
            code = command.invoke(context)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except _CLICK_USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(f"{error.format_message()}\n" if error.format_message() else "")
            return ExitCode.USAGE
        command_name = next((word for word in arguments[:1] if word in COMMANDS), "")
        path = error.ctx.command_path if error.ctx is not None else f"scalercli {command_name}".rstrip()
        text = error.format_message().rstrip(".")
        text, _, possible = text.partition(" (Possible options: ")  # what the parser thinks was meant
        hint = f"did you mean {possible.rstrip(')').replace(', ', ' or ')}?" if possible else f"{path} --help"
        raise CliError(text[:1].lower() + text[1:], hint) from None
    except _CLICK_ERROR as error:
        raise CliError(error.format_message()) from None
    return int(code or 0)


def _has_directory() -> bool:
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        return False
    return True


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _forget_stdout() -> None:
    """What is still in Python's buffer has no reader: no complaint about it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _errors_as_json(arguments: list[str]) -> bool:
    if options.chosen_mode is not None:
        return options.chosen_mode in (Mode.JSON, Mode.JSONL)
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    pairs = zip(words, [*words[1:], ""], strict=True)
    return "--json" in words or any(
        (first in ("-o", "--output") and second.startswith("json")) or first.startswith(("--output=json", "-ojson"))
        for first, second in pairs
    )


def _internal(error: Exception) -> CliError:
    """An error that should not have happened: one line here, the traceback in a file."""
    import traceback

    from scalercli.places import internal_log

    where = "its traceback could not be written"
    try:
        path = internal_log()
        with open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600)) as log:
            traceback.print_exception(type(error), error, error.__traceback__, file=log)
        where = f"this is a bug; its traceback is in {path}"
    except (OSError, CliError):
        pass
    return CliError(f"internal error: {type(error).__name__}: {error}", where, ExitCode.INTERNAL)
