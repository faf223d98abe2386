"""``scalercli help``: pages about what concerns several commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from scalercli import options, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.output import wants_colour

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"help": app}


@app.command("help")
def help_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOPIC|COMMAND]", show_default=False, help="A page.", autocompletion=options.completer("topic")
        ),
    ] = None,
) -> int:
    """Show a page about a topic, or a command's --help; without a word, the topics."""
    from scalercli import topics
    from scalercli.app import COMMANDS, main

    if not words:
        sys.stdout.write("Topics (scalercli help TOPIC):\n")
        for topic in topics.TOPICS.values():
            sys.stdout.write(f"  {topic.name:<15}{topic.title}\n")
        sys.stdout.write("\nCommands (scalercli help COMMAND):\n  " + ", ".join(COMMANDS) + "\n")
        return ExitCode.OK
    if words[0] in topics.TOPICS and len(words) == 1:
        page = topics.page(topics.TOPICS[words[0]])
        sys.stdout.write(_bold_headings(page) if wants_colour(sys.stdout) else page)
        return ExitCode.OK
    if words[0] in COMMANDS:
        return main([*words, "--help"])
    name = " ".join(words)
    raise CliError(
        f"there is no help about {name!r}", settings.meant(name, [*topics.TOPICS, *COMMANDS]) or "scalercli help"
    )


def _bold_headings(page: str) -> str:
    return "".join(
        f"\x1b[1m{line.rstrip()}\x1b[0m\n" if line[:1].isupper() else line for line in page.splitlines(keepends=True)
    )
