"""``scalercli scheduler``, ``worker`` and ``object-storage``: a reference role in the foreground.

Every argument goes to the role's own parser, ``--help`` too.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from scalercli import examples, settings

_ARGV = "scalercli.argv"
_CONNECT = ("worker", "worker-manager")


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
        argv = [*(_keys(ctx.meta[_ARGV]) if name in _CONNECT else ()), *ctx.meta[_ARGV]]
        try:
            return int(module.main(argv))
        except SystemExit as end:
            if end.code == 0 and {"-h", "--help"} & set(argv):
                sys.stdout.write(f"\n{examples.text(name)}")
            raise

    return app


def _keys(argv: list[str]) -> list[str]:
    """The keys that the settings have, for a role that connects and was not given others."""
    if any(word.startswith(("--key-file", "--server-key")) for word in argv):
        return []
    address = next((word for word in argv if "://" in word), "")
    keys = settings.keys(address) if address else settings.Keys("", "")
    return ["--key-file", keys.key_file, "--server-key", keys.server_key] if all(keys) else []


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
