"""``scalercli conformance``: judge an implementation of the protocol."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from scalercli import options, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Mode, Output, Record, message

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Judge implementations of the protocol.")
apps = {"conformance": app}

PatternsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATTERN…]", help="Scenarios by id or requirement: late-result, 'CAN-*', 'worker/*'."),
]
TargetOption = Annotated[str, typer.Option("--target", "-t", metavar="NAME|FILE", help="What is judged.")]
RoleOption = Annotated[
    str | None, typer.Option("--role", metavar="ROLE", help="scheduler, worker, client or object-storage only.")
]
PeerOption = Annotated[
    str | None, typer.Option("--peer", metavar="DIRECTORY", help="Where the target's programs are: {peer}.")
]
AttachOption = Annotated[
    str | None, typer.Option("--attach", metavar="ADDRESS", help="Judge the one that runs there; needs --role.")
]
ViaOption = Annotated[str | None, typer.Option("--via", metavar="sockets|core", help="How it is reached.")]
ScenariosOption = Annotated[
    Path | None, typer.Option("--scenarios", metavar="DIRECTORY", help="Scenario files instead of those of the suite.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="The target's known deviations are failures, as if it listed none.")
]
PatienceOption = Annotated[
    float | None, options.duration_option("--patience", help="How long an expected message may take: bounds a hang.")
]


@app.command()
def run(
    patterns: PatternsArgument = None,
    target: TargetOption = "reference",
    role: RoleOption = None,
    via: ViaOption = None,
    peer: PeerOption = None,
    attach: AttachOption = None,
    strict: StrictOption = False,
    scenarios: ScenariosOption = None,
    patience: PatienceOption = None,
    max_orders: Annotated[int, typer.Option("--max-orders", metavar="N", help="Per scenario.", min=1)] = 2000,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Implementations side by side.", min=1)] = 8,
    stability: Annotated[int, typer.Option("--stability", metavar="N", help="Run all N times, shuffled.", min=0)] = 0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the shuffling.")] = 0,
    counterexamples: Annotated[
        Path | None, typer.Option("--counterexamples", metavar="DIRECTORY", help="Minimal scenario files of failures.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the deviations, with diagrams.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", help="Write what -o jsonl prints, for diff.")
    ] = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run scenarios against a target. Exit 0: every MUST holds; 12: not conformant."""
    from conformance_tests.engine import command

    out = options.output(output, json, quiet)
    with _errors():
        chosen = command.Choice(
            target,
            role,
            tuple(patterns or ()),
            via or "",
            peer or "",
            attach or "",
            scenarios,
            jobs,
            strict,
            _keys(attach),
        )
        more = command.Reports(junit, html, markdown, results, counterexamples)
        if stability:
            return _end(out, command.stability(_Printer(out), chosen, stability, seed, patience, max_orders))
        return _end(out, command.run(_Printer(out), chosen, more, patience, max_orders))


@app.command("list")
def list_(
    patterns: PatternsArgument = None,
    role: RoleOption = None,
    scenarios: ScenariosOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Show the scenarios, with their requirements and how many orders each has."""
    from conformance_tests.engine import command

    with _errors():
        out = options.output(output, json, False)
        return _end(out, command.show_list(_Printer(out), tuple(patterns or ()), role, scenarios))


@app.command()
def explain(
    what: Annotated[str, typer.Argument(metavar="ID", help="A requirement (CAN-07) or a scenario (late-result).")],
    scenarios: ScenariosOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Show a requirement with its sentence and scenarios, or a scenario with its steps."""
    from conformance_tests.engine import command

    with _errors():
        out = options.output(output, json, False, single=True)
        return _end(out, command.explain(_Printer(out), what, scenarios))


@app.command()
def diff(
    files: Annotated[list[Path], typer.Argument(metavar="A B…", help="The JSONL files of two runs or more.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page: requirements by implementations.")
    ] = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Show the scenarios whose verdict differs between runs. Exit 0: none; 13: some."""
    from conformance_tests.engine import command

    with _errors():
        out = options.output(output, json, False)
        return _end(out, command.diff(_Printer(out), files, html))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario file, such as a counterexample.")],
    target: TargetOption = "reference",
    via: ViaOption = None,
    peer: PeerOption = None,
    attach: AttachOption = None,
    strict: StrictOption = False,
    patience: PatienceOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run one scenario file and show what was said. Exit 0: it passes; 13: it diverges, which is shown."""
    from conformance_tests.engine import command

    if not file.is_file():
        raise CliError(f"there is no file {file}", "scalercli conformance run --counterexamples DIRECTORY writes some")
    with _errors():
        chosen = command.Choice(
            target, None, (), via or "", peer or "", attach or "", strict=strict, keys=_keys(attach)
        )
        out = options.output(output, json, quiet, single=True)
        return _end(out, command.replay(_Printer(out), chosen, file, patience))


@app.command()
def walk(
    target: TargetOption = "reference",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed chooses the same walks.", min=0)] = 0,
    walks: Annotated[int, typer.Option("--walks", metavar="N", help="How many.", min=1)] = 100,
    length: Annotated[int, typer.Option("--length", metavar="N", help="Actions per walk, at most.", min=1)] = 30,
    allow: Annotated[
        str | None,
        typer.Option(
            "--allow",
            metavar="ID,…",
            help="Requirements that it is known to break: a walk ends there and the next one begins. "
            "Default: the known deviations of the target; none: no requirement.",
        ),
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option("--scenario", metavar="FILE", help="Write the shortest walk to this file.")
    ] = None,
    via: ViaOption = None,
    peer: PeerOption = None,
    attach: AttachOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Walk at random through what clients and workers may do with a scheduler. Exit 12: it broke a rule."""
    from conformance_tests.engine.command import Choice
    from conformance_tests.walker import command

    out = options.output(output, json, quiet, single=True)
    allowed = None if allow is None else frozenset(allow.replace(" ", "").split(",")) - {"", "none"}
    with _errors():
        chosen = Choice(target, None, (), via or "", peer or "", attach or "", keys=_keys(attach))
        return _end(out, command.walk(_Printer(out), chosen, walks, length, seed, allowed, scenario))


def _keys(attach: str | None) -> tuple[str, str] | None:
    """The keys that the settings have for what is attached to; raises CliError."""
    keys = settings.keys(attach) if attach else settings.Keys("", "")
    if not any(keys):
        return None
    from reference_impl.access.keys import KeyFileError
    from reference_impl.access.settings import peer_access_of

    try:
        peer_access_of(keys.key_file or None, keys.server_key or None)
    except KeyFileError as error:
        raise CliError(str(error), error.hint) from None
    return keys


def _end(out: Output, code: int) -> int:
    out.close()
    return code


class _Printer:
    """The engine's answers on ``scalercli``'s output."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._bar = sys.stderr.isatty()

    def record(self, schema: str, name: str, fields: dict[str, Any], cells: Sequence[tuple[str, str, str]]) -> None:
        self._clear()
        if self._out.mode is Mode.TEXT and not cells:
            return
        shown = [Cell(header, text, style=style) for header, text, style in cells]
        self._out.record(Record(schema, name, fields, shown))
        self._out.flush()

    def text(self, text: str) -> None:
        self._out.text(text)

    def message(self, text: str) -> None:
        self._clear()
        self._out.flush()
        if not self._out.quiet or text.startswith("error"):
            message(text)

    def progress(self, done: int, total: int, name: str) -> None:
        if self._bar:
            sys.stderr.write(f"\r\x1b[K{done}/{total} {name}")
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def _errors() -> Iterator[None]:
    """What the engine says is wrong with what was asked, in this command's style."""
    from conformance_tests.engine.channels import SetupFailed
    from conformance_tests.engine.command import UsageProblem
    from conformance_tests.engine.scenario import BadScenario
    from conformance_tests.engine.targets import BadTarget

    try:
        yield
    except UsageProblem as error:
        raise CliError(str(error), error.hint) from None
    except (BadScenario, BadTarget) as error:
        raise CliError(str(error), "conformance_tests/README.md explains the format") from None
    except SetupFailed as error:
        raise CliError(str(error), "the target file says how it is started", ExitCode.UNREACHABLE) from None
