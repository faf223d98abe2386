"""``scalercli keys``: makes keys, and keeps the list of those that a cluster allows."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reference_impl.access import keys as files
from reference_impl.access.keys import KEY_SUFFIX, PUBLIC_SUFFIX, KeyFileError, PublicKey, Role
from scalercli import options, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import JsonOption, OutputOption
from scalercli.output import Cell, Output, Record
from scalercli.places import config_root

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Keys of clusters and of those who may use them (scalercli help access).",
)
apps = {"keys": app}

AllowOption = Annotated[
    str | None, typer.Option("--allow", metavar="DIRECTORY", help="The list of allowed keys, if not yours.")
]


@app.command()
def new(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of whom it is for; default: you.", show_default=False)
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", metavar="DIR", help="Where; default: your own keys.")
    ] = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Make a key: NAME.key, which is secret and stays where it is used, and NAME.pub, which is to be shown.

    The columns: name, fingerprint, the file.
    """
    out = options.output(output, json, False, single=True)
    with _told():
        private, public = files.create(name or getpass.getuser(), directory or _own_keys())
        key = files.load_public(public)
    fields = {"name": key.name, "fingerprint": key.fingerprint, "key_file": str(private), "public_key": str(public)}
    cells = [Cell("name", key.name), Cell("fingerprint", key.fingerprint), Cell("file", str(private))]
    out.record(Record("scalercli.new-key/1", key.name, fields, cells))
    out.close()
    return ExitCode.OK


@app.command("list")
def list_(allow: AllowOption = None, output: OutputOption = None, json: JsonOption = False) -> int:
    """Show your own keys, and those that your list allows.

    The columns: private or allowed, name, roles, fingerprint, the file. A file that can't be used is said on stderr.
    """
    out = options.output(output, json, False)
    found = [*sorted(_own_keys().glob(f"*{KEY_SUFFIX}")), *sorted(_allowed(allow).glob(f"*{PUBLIC_SUFFIX}"))]
    for path in found:
        try:
            _show(out, path)
        except KeyFileError as error:
            out.note(f"{error}; {error.hint}")
    out.close()
    return ExitCode.OK


@app.command()
def show(
    key: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A key of yours, or any key file.")],
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Show what may be known of a key, never its secret."""
    out = options.output(output, json, False, single=True)
    with _told():
        _show(out, _own_keys() / f"{key}{KEY_SUFFIX}" if files.is_name(key) and not Path(key).exists() else Path(key))
    out.close()
    return ExitCode.OK


@app.command("allow")
def allow_(
    file: Annotated[Path, typer.Argument(metavar="PUBLICKEYFILE", help="NAME.pub.", show_default=False)],
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="What for: client (the default), worker, manager, monitor; repeatable.",
            autocompletion=options.completer("key_role"),
        ),
    ] = None,
    allow: AllowOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Allow a key from now on: a scheduler and an object storage that go by this list need no restart."""
    out = options.output(output, json, False, single=True)
    try:
        roles = frozenset(Role(one) for one in role or [Role.CLIENT.value])
    except ValueError as error:
        raise CliError(f"{error}", f"--role: one of {', '.join(one.value for one in Role)}") from None
    directory = _allowed(allow)
    with _told():
        key = files.load_public(file)._replace(roles=roles)
        before = directory / f"{key.name}{PUBLIC_SUFFIX}"
        if before.exists() and (other := files.load_public(before)).curve != key.curve:
            raise CliError(
                f"another key that is called {key.name} is allowed already ({other.fingerprint})",
                f"scalercli keys revoke {key.name}",
                ExitCode.REFUSED,
            )
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            files.write_public(before, key)
        except OSError as error:
            raise KeyFileError(f"can't write {before}: {error.strerror}", f"ls -ld {directory}") from None
        _show(out, before)
    out.close()
    return ExitCode.OK


@app.command()
def revoke(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Of an allowed key.", autocompletion=options.completer("allowed_key")),
    ],
    allow: AllowOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Allow a key no longer: new connections are refused at once, those that it has are lost within a second."""
    out = options.output(output, json, False, single=True)
    path = _allowed(allow) / f"{name}{PUBLIC_SUFFIX}"
    try:
        path.unlink()
    except FileNotFoundError:
        raise CliError(f"no key called {name!r} is allowed in {path.parent}", "scalercli keys list", 3) from None
    except OSError as error:
        raise CliError(f"can't remove {path}: {error.strerror}", f"ls -ld {path.parent}") from None
    fields = {"name": name, "kind": "revoked", "file": str(path)}
    out.record(Record("scalercli.key/1", name, fields, [Cell("", "revoked"), Cell("name", name)]))
    out.close()
    return ExitCode.OK


def allowed_names(flag: str | None) -> list[str]:
    """Of the list of allowed keys."""
    return sorted(path.stem for path in _allowed(flag).glob(f"*{PUBLIC_SUFFIX}"))


def _own_keys() -> Path:
    return config_root() / "keys"


def _allowed(flag: str | None) -> Path:
    return Path(flag or settings.path("allow") or config_root() / "allowed")


def _show(out: Output, path: Path) -> None:
    private = path.suffix == KEY_SUFFIX
    key: PublicKey = files.load_private(path).public if private else files.load_public(path)
    roles = [role.value for role in Role if role in key.roles]
    kind = "private" if private else "allowed" if roles else "public"
    fields = {"name": key.name, "kind": kind, "roles": roles, "fingerprint": key.fingerprint, "file": str(path)}
    cells = [
        Cell("", kind),
        Cell("name", key.name),
        Cell("roles", ",".join(roles)),
        Cell("fingerprint", key.fingerprint),
        Cell("file", str(path)),
    ]
    out.record(Record("scalercli.key/1", key.name, fields, cells), table=True)


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong with a key file is an error of the command."""
    try:
        yield
    except KeyFileError as error:
        raise CliError(str(error), error.hint) from None
