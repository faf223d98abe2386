"""A shell command as a task, and a call in a directory and environment of its own."""

from __future__ import annotations

from collections.abc import Callable


def run_command(
    argv: list[str], cwd: str | None = None, env: dict[str, str] | None = None, changes: dict[str, str] | None = None
) -> int:
    """Runs a command to its end and returns its exit code as a shell would give it.

    Its stdout and stderr are the task's own, so they stream while it runs; its stdin is empty. ``env`` replaces the
    environment (None: the worker's) but for what says that this is a task (SPEC section 5.9), then ``changes`` are made
    to it. A death by signal n is 128 + n; 126: not executable; 127: not found, or ``cwd`` is not there; both with one
    line on stderr. Imports nothing that it needs at module level and uses no other function of this package, so that it
    can be pickled by value and run on any worker of the protocol.
    """
    import codecs
    import os
    import selectors
    import shutil
    import subprocess
    import sys

    def refuse(code: int, what: str) -> int:
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()
        return code

    def has_descriptor(stream: object) -> bool:
        try:
            return stream.fileno() >= 0  # type: ignore[attr-defined, no-any-return]
        except (AttributeError, OSError, ValueError):
            return False

    if not argv:
        return refuse(127, "no command was given")
    sys.stdout.flush()
    sys.stderr.flush()
    if cwd is not None and not os.path.isdir(cwd):  # noqa: PTH112
        return refuse(127, f"{cwd}: no such directory on the worker")
    if env is not None:
        env = {**env, **{name: value for name, value in os.environ.items() if name.startswith("SCALER_TASK_")}}
    if changes:
        env = {**(os.environ if env is None else env), **changes}
    # Some workers capture what Python writes and nothing else: there the output has to go through Python.
    copied = not (has_descriptor(sys.stdout) and has_descriptor(sys.stderr))
    out, err = (subprocess.PIPE, subprocess.PIPE) if copied else (1, 2)
    try:
        child = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    except FileNotFoundError:
        there = shutil.which(argv[0], path=None if env is None else env.get("PATH"))
        why = "its interpreter was not found" if there else "command not found"
        return refuse(127, f"{argv[0]}: {why}")
    except PermissionError:
        return refuse(126, f"{argv[0]}: not executable")
    except OSError as error:
        return refuse(126, f"{argv[0]}: {error.strerror or error}")
    except ValueError as error:
        return refuse(126, f"{argv[0]}: {error}")
    try:
        if child.stdout is not None and child.stderr is not None:
            with child.stdout, child.stderr, selectors.DefaultSelector() as selector:
                for pipe, stream in ((child.stdout, sys.stdout), (child.stderr, sys.stderr)):
                    decoder = codecs.getincrementaldecoder("utf-8")("replace")
                    selector.register(pipe, selectors.EVENT_READ, (decoder, stream))
                while selector.get_map():
                    for key, _ in selector.select():
                        data = os.read(key.fd, 65536)
                        decoder, stream = key.data
                        stream.write(decoder.decode(data, not data))
                        if not data:
                            selector.unregister(key.fileobj)
        code = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    return code if code >= 0 else 128 - code


def call_there(function: Callable[..., object], cwd: str | None, env: dict[str, str], *arguments: object) -> object:
    """``function(*arguments)`` in this directory (None: where the worker is) and with these variables. Both are as
    before when it returns. Raises FileNotFoundError and the like for the directory, and what the function raises."""
    import os

    before = {name: os.environ.get(name) for name in env}
    here = os.getcwd()  # noqa: PTH109
    try:
        os.environ.update(env)
        if cwd is not None:
            os.chdir(cwd)
        return function(*arguments)
    finally:
        os.chdir(here)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
