"""``scalercli completion``: the script that a shell needs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from scalercli import completion, options, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"completion": app}


@app.command("completion")
def show(
    shell: Annotated[
        str,
        typer.Argument(
            metavar="bash|zsh|fish", show_default=False, help="The shell.", autocompletion=options.completer("shell")
        ),
    ],
) -> int:
    """Print the script that lets a shell complete commands, options, task ids, clusters and functions.

    In bash, put this line into ~/.bashrc: eval "$(scalercli completion bash)"

    In zsh, into ~/.zshrc, behind compinit: eval "$(scalercli completion zsh)"

    For fish: scalercli completion fish > ~/.config/fish/completions/scalercli.fish
    """
    if shell not in completion.SHELLS:
        raise CliError(
            f"{shell!r} is not a shell that can be served",
            settings.meant(shell, completion.SHELLS) or f"one of {', '.join(completion.SHELLS)}",
        )
    sys.stdout.write(completion.script(shell) + "\n")
    return ExitCode.OK
