"""What the shell completes. Fast and without effects: it asks a living agent or reads the ledger, and starts nothing.

typer knows the commands and options; this gives it the words behind them. An error completes nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalercli import settings
from scalercli.places import EMBEDDED, Places, local_names, session_addresses

if TYPE_CHECKING:
    from protocol.control import TaskRow

VARIABLE = "_SCALERCLI_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
_LINE = "_TYPER_COMPLETE_ARGS"
_PATIENCE_SECONDS = 0.5
_MOST_TASKS = 200
_LIVING_ONLY = ("cancel", "wait")

Words = Iterable[tuple[str, str]]

_BASH = r"""
_scalercli_completion() {
    local line word="${COMP_LINE:0:COMP_POINT}" replies=()
    while IFS= read -r line; do
        replies+=("${line%%$'\t'*}")
    done < <(_SCALERCLI_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args _TYPER_COMPLETE_ARGS="$word" \
             "$1" 2>/dev/null)
    word="${word##*[[:space:]]}"
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then  # for bash, what stands before a colon is another word
        replies=("${replies[@]#"${word%"${word##*:}"}"}")
    fi
    if [[ ${#replies[@]} -eq 1 && ${replies[0]} == *: ]]; then
        compopt -o nospace 2>/dev/null
    fi
    COMPREPLY=("${replies[@]}")
}
complete -o default -F _scalercli_completion scalercli
"""


def script(shell: str) -> str:
    """What the shell has to evaluate."""
    if shell == "bash":  # typer's own does not know words with colons
        return _BASH.strip()
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    return get_completion_script(prog_name="scalercli", complete_var=VARIABLE, shell=shell)


def respond(command: Any, instruction: str) -> int:
    """Answers the shell on stdout."""
    from typer import _completion_classes as classes
    from typer.completion import completion_init, shell_complete  # type: ignore[attr-defined]

    completion_init()
    if hasattr(classes, "_sanitize_help_text"):  # it imports rich, to take markup away that there is none of
        classes._sanitize_help_text = lambda text: text
    try:
        return int(shell_complete(command, {}, "scalercli", VARIABLE, instruction))
    except SystemExit as end:
        return int(end.code or 0) if isinstance(end.code, int | None) else 1
    except Exception:  # nobody could read about it
        return 1


def candidates(kind: str, ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """The words of this kind that begin with ``incomplete``, with what they are."""
    try:
        words = list(_KINDS[kind](ctx, incomplete))
    except Exception:  # a ledger that is locked, a configuration with a mistake: the command will say so
        return []
    return [(word, what) for word, what in words if word.startswith(incomplete)]


def _tasks(ctx: Any, incomplete: str) -> Words:
    places = Places(settings.cluster(ctx.params.get("cluster")))
    rows = _of_agent(places) or _of_ledger(places)
    living = ctx.info_name in _LIVING_ONLY
    given = set(ctx.params.get("ids_") or ())
    shown = [row for row in reversed(rows) if not (living and row.state.over) and row.task_id.hex() not in given]
    yield from ((row.task_id.hex(), f"{row.state.label} {row.text}"[:60]) for row in shown[:_MOST_TASKS])
    if shown and "@last" not in given:
        yield "@last", "the task that was submitted last"


def _of_agent(places: Places) -> list[TaskRow]:
    from protocol.control import Selection
    from scalercli import link, selecting

    agent = link.find_agent(places, patience_seconds=_PATIENCE_SECONDS)
    return [] if agent is None else selecting.resolve(agent, Selection(all=True))


def _of_ledger(places: Places) -> list[TaskRow]:
    from protocol.control import ShownState
    from scalercli.agent.ledger import Ledger

    if not places.ledger.exists():
        return []
    ledger = Ledger(places.ledger, read_only=True)
    rows = [entry.row for entry in ledger.all()]
    ledger.close()
    return [row if row.state.over else row._replace(state=ShownState.LOST) for row in rows]


def _states(ctx: Any, incomplete: str) -> Words:
    from protocol.control import ShownState

    return ((state.label, "") for state in ShownState if state is not ShownState.NOT_FOUND)


def _outcomes(ctx: Any, incomplete: str) -> Words:
    from protocol.control import CancelOutcome

    return ((outcome.label, "") for outcome in CancelOutcome if outcome is not CancelOutcome.REQUESTED)


def _clusters(ctx: Any, incomplete: str) -> Words:
    found = {EMBEDDED: "the default cluster on this machine"}
    found |= {name: "a cluster on this machine" for name in local_names() if name != EMBEDDED}
    found |= {name: str(setting.value) for name, setting in settings.clusters().items()}
    found |= dict.fromkeys(session_addresses(), "a session with it")
    return found.items()


def _modules(ctx: Any, incomplete: str) -> Words:
    """``MODULE:`` and, where that can be read without running anything, ``MODULE:FUNCTION``."""
    if (
        ctx.params.get("words") or ctx.params.get("function") or " -- " in os.environ.get(_LINE, "")
    ):  # a command, or the arguments: files
        return []
    if ":" in incomplete:
        module = incomplete.partition(":")[0]
        return [(f"{module}:{name}", "") for name in _functions(module)]
    import pkgutil

    if "/" in incomplete:
        return []
    names = set(sys.stdlib_module_names) | {found.name for found in pkgutil.iter_modules()}
    here = [f"{path.name}:" for path in sorted(Path.cwd().glob("*.py"))]
    return [
        (name, "")
        for name in [*here, *(f"{name}:" for name in sorted(names) if name.isidentifier() and name[0] != "_")]
    ]


def _functions(module: str) -> list[str]:
    import ast
    import importlib
    import importlib.util

    if module.endswith(".py"):
        source = Path(module)
    elif re.fullmatch(r"\w+", module):
        spec = importlib.util.find_spec(module)
        if spec is None:
            return []
        if not spec.origin or not spec.origin.endswith(".py"):
            if module not in sys.stdlib_module_names:
                return []
            found = vars(importlib.import_module(module))  # compiled, and Python's own: nothing happens
            return sorted(name for name, value in found.items() if callable(value) and not name.startswith("_"))
        source = Path(spec.origin)
    else:
        return []
    tree = ast.parse(source.read_bytes())
    functions = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, functions) and not node.name.startswith("_")]


def _plain(*words: str) -> Callable[[Any, str], Words]:
    return lambda ctx, incomplete: ((word, "") for word in words)


def _settings(ctx: Any, incomplete: str) -> Words:
    return ((known.name, known.what) for known in settings.KNOWN.values())


def _topics(ctx: Any, incomplete: str) -> Words:
    from scalercli import topics

    return ((topic.name, topic.title) for topic in topics.TOPICS.values())


def _allowed_keys(ctx: Any, incomplete: str) -> Words:
    from scalercli.commands import keys

    return ((name, "an allowed key") for name in keys.allowed_names(ctx.params.get("allow")))


_KINDS: dict[str, Callable[[Any, str], Words]] = {
    "task": _tasks,
    "state": _states,
    "outcome": _outcomes,
    "cluster": _clusters,
    "module": _modules,
    "output": _plain(*settings.OUTPUT_MODES),
    "role": _plain("agent", "scheduler", "worker", "object-storage"),
    "progress": _plain("auto", "bar", "lines", "none"),
    "shell": _plain(*SHELLS),
    "setting": _settings,
    "topic": _topics,
    "key_role": _plain("client", "worker", "manager", "monitor"),
    "allowed_key": _allowed_keys,
}
