"""``scalercli scheduler``, ``worker`` and ``object-storage``: a reference role in the foreground.

Every argument goes to the role's own parser, ``--help`` too.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from scalercli import examples

_ARGV = "scalercli.argv"


class RoleCommand(TyperCommand):
    """Parses nothing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGV] = list(args)
        rest: list[str] = super().parse_args(ctx, [])
        return rest


def _role(name: str, help: str) -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

    @app.command(cls=RoleCommand, help=help, add_help_option=False)
    def role(ctx: typer.Context) -> int:
        module = importlib.import_module(f"reference_impl.{name.replace('-', '_')}.__main__")
        argv = ctx.meta[_ARGV]
        try:
            return int(module.main(argv))
        except SystemExit as end:
            if end.code == 0 and {"-h", "--help"} & set(argv):
                sys.stdout.write(f"\n{examples.text(name)}")
            raise

    return app


apps = {
    "scheduler": _role("scheduler", "Run a scheduler in the foreground."),
    "worker": _role("worker", "Run workers in the foreground."),
    "worker-manager": _role(
        "worker-manager",
        "Start and stop workers on this machine as the scheduler wishes.",
    ),
    "object-storage": _role(
        "object-storage",
        "Run an object storage in the foreground.",
    ),
}
