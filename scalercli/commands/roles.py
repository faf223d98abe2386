"""``scalercli scheduler``, ``worker`` and ``object-storage``: a reference role in the foreground.

Every argument goes to the role's own parser, ``--help`` too.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand

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
        return int(module.main(ctx.meta[_ARGV]))

    return app


apps = {
    "scheduler": _role(
        "scheduler", "Run a scheduler in the foreground. For example: scalercli scheduler tcp://127.0.0.1:6378"
    ),
    "worker": _role("worker", "Run workers in the foreground. For example: scalercli worker tcp://127.0.0.1:6378"),
    "worker-manager": _role(
        "worker-manager",
        "Start and stop workers on this machine as the scheduler wishes. "
        "For example: scalercli worker-manager tcp://127.0.0.1:6378 --max 8",
    ),
    "object-storage": _role(
        "object-storage",
        "Run an object storage in the foreground. For example: scalercli object-storage tcp://127.0.0.1:6379",
    ),
}
