"""``scalercli config``: which settings hold, who set them, and setting them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scalercli import options, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import JsonOption, OutputOption
from scalercli.output import Cell, Record, show_error

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Settings, their origins, and the files they come from.",
)
apps = {"config": app}

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Of the setting.", show_default=False, autocompletion=options.completer("setting")
    ),
]


@app.command("list")
def list_(output: OutputOption = None, json: JsonOption = False) -> int:
    """Show every setting with its value and its origin: a variable, FILE:LINE, or default.

    What is wrong is said on stderr, with exit code 2.
    """
    out = options.output(output, json, False)
    code = ExitCode.OK
    for name, known in settings.KNOWN.items():
        try:
            setting = settings.find(name)
            if name == "cluster":
                settings.cluster(None)
        except CliError as error:
            show_error(error, as_json=out.mode.value.startswith("json"))
            code = ExitCode.USAGE
            if not settings.readable():
                break
            setting = next(iter(settings.origins(name)))
        out.record(_record(name, setting, known.what), table=True)
    if settings.readable():
        for name, setting in sorted(settings.clusters().items()):
            out.record(_record(f"clusters.{name}", setting, "the address of a cluster"), table=True)
    out.close()
    for variable in settings.unknown_variables():
        out.note(settings.about_unknown(variable))
    return code


@app.command()
def path(output: OutputOption = None, json: JsonOption = False) -> int:
    """Show the configuration files, the strongest first, and whether they exist."""
    out = options.output(output, json, False)
    for file in settings.files():
        there = file.exists()
        whole = str(file.absolute())
        fields = {"path": whole, "exists": there}
        cells = [Cell("file", whole), Cell("", "exists" if there else "does not exist")]
        out.record(Record("scalercli.config-file/1", "", fields, cells), table=True)
    out.close()
    return ExitCode.OK


@app.command("get")
def get_(name: NameArgument, output: OutputOption = None, json: JsonOption = False) -> int:
    """Show the value of one setting."""
    out = options.output(output, json, False, single=True)
    known = _known(name)
    setting = settings.find(name)
    out.record(_record(name, setting, known.what)._replace(cells=[Cell("value", str(setting.value))]))
    out.close()
    return ExitCode.OK


@app.command("set")
def set_(
    name: NameArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", show_default=False)],
    here: Annotated[bool, typer.Option("--here", help="In ./scalercli.toml, not in the user's file.")] = False,
) -> int:
    """Write a setting to the user's configuration file; comments in it are kept."""
    out = options.output(None, False, False)
    known = _known(name)
    native = settings.native(known, value)
    if value and name in settings.PATHS:  # in a file it is meant from where that is, on a command line from here
        native = str(Path(value).expanduser().absolute())
    try:
        known.check(native)
    except ValueError as error:
        raise CliError(f"{name} can't be {value!r}: {error}", "scalercli help configuration") from None
    if name == "cluster":
        settings.named_cluster(value)
    file = settings.files()[0 if here else 1]
    write(file, name, native)
    stronger = settings.find(name).origin
    if not stronger.startswith(f"{file}:"):
        out.note(f"{stronger} sets {name}, too, and wins")
    return ExitCode.OK


def write(file: Path, name: str, value: Any) -> None:
    """Sets one value in a configuration file, which is made if there is none; raises CliError."""
    import tomlkit

    settings.read(file)  # a broken file is left alone
    try:
        document = tomlkit.parse(file.read_text()) if file.exists() else tomlkit.document()
        document[name] = value
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.new")
        new.write_text(tomlkit.dumps(document))
        new.replace(file)
    except OSError as error:
        raise CliError(f"can't write {file}: {error.strerror}", f"ls -ld {file.parent.absolute()}") from None
    settings.read.cache_clear()


def _known(name: str) -> settings.Known:
    if name not in settings.KNOWN:
        raise CliError(
            f"{name!r} is not a setting", settings.meant(name, settings.KNOWN) or "scalercli help configuration"
        )
    return settings.KNOWN[name]


def _record(name: str, setting: settings.Setting, what: str) -> Record:
    fields = {"name": name, "value": setting.value, "origin": setting.origin, "what": what}
    shown = f"{setting.value:g}" if isinstance(setting.value, float) else str(setting.value)
    cells = [Cell("setting", name), Cell("value", shown), Cell("origin", setting.origin)]
    return Record("scalercli.setting/1", "", fields, cells)
