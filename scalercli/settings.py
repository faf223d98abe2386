"""Settings and where they come from: flag > ``SCALERCLI_*`` > ./scalercli.toml > the user's configuration file.

```toml
cluster = "lab"            # embedded, an address, or a name
workers = 4                # of a cluster on this machine, or "auto"
idle_seconds = 600         # after which a session without tasks ends; 0: never
output = "text"
timeout = "15s"            # of a cancel
key_file = "keys/me.key"   # of clusters that have keys, unless [clusters] says another
server_key = "lab.pub"
[clusters]
lab = "tcp://10.0.0.5:6378"
big = { address = "tcp://10.0.0.9:6378", key_file = "keys/me.key", server_key = "big.pub" }
```

``KNOWN`` is the only list of them: the checks, ``scalercli config`` and ``scalercli help`` are made from it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from scalercli import definition, durations
from scalercli.errors import CliError
from scalercli.places import EMBEDDED, Places, config_root, is_defined, is_local, is_name, local_names

FILE_NAME = "scalercli.toml"
CLUSTERS = "clusters"
DEFAULT_IDLE_SECONDS = 600.0
DEFAULT_CANCEL_TIMEOUT = 15.0
MAX_WORKERS = 1024
_UNLIMITED = "unlimited"
_MOST_SECONDS = 1e12
_PREFIX = "SCALERCLI_"
OUTPUT_MODES = ("text", "json", "jsonl", "ids", "none")


class Setting(NamedTuple):
    """A value and who set it: an option, a variable, ``FILE:LINE``, or ``default``."""

    value: Any
    origin: str


class Known(NamedTuple):
    """A setting. ``check`` makes the value that is used, of what a file or a variable has; raises ValueError."""

    name: str
    flag: str
    default: Any
    check: Callable[[Any], Any]
    what: str

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.upper()


def _check_cluster(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("an address tcp://HOST:PORT or a name was expected")
    return value


def _check_workers(value: Any) -> int:
    if value == "auto":
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WORKERS:
        return value
    raise ValueError(f"a number from 1 to {MAX_WORKERS}, or auto, was expected")


def _check_memory(value: Any) -> int:
    if value == _UNLIMITED:
        return 0
    from argparse import ArgumentTypeError

    from reference_impl.options import task_memory

    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a size such as 2G, or unlimited, was expected")
    try:
        return task_memory(str(value)) or 0
    except ArgumentTypeError as error:
        raise ValueError(str(error)) from None


def _check_idle_seconds(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < _MOST_SECONDS:
        raise ValueError("a number of seconds was expected; 0 is never")
    return float(value)


def _check_output(value: Any) -> str:
    if value not in OUTPUT_MODES:
        raise ValueError(f"one of {', '.join(OUTPUT_MODES)} was expected")
    return str(value)


def _check_path(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("the path of a file was expected")
    return value


def _check_timeout(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a duration such as 15s was expected")
    return durations.parse(str(value))


KNOWN = {
    known.name: known
    for known in (
        Known("cluster", "--cluster", EMBEDDED, _check_cluster, "which cluster: an address, a name, or embedded"),
        Known("workers", "--workers", "auto", _check_workers, "slots of a cluster on this machine; auto: one per core"),
        Known(
            "memory_limit_per_task",
            "--memory-limit-per-task",
            _UNLIMITED,
            _check_memory,
            "how much memory a task may use, with what it starts, in a cluster on this machine, for example 2G",
        ),
        Known(
            "idle_seconds",
            "",
            DEFAULT_IDLE_SECONDS,
            _check_idle_seconds,
            "a session without tasks ends after so long, and its own cluster with it; 0: never",
        ),
        Known("output", "--output", "text", _check_output, f"how answers are printed: {', '.join(OUTPUT_MODES)}"),
        Known("timeout", "--timeout", f"{DEFAULT_CANCEL_TIMEOUT:g}s", _check_timeout, "how long a cancel may take"),
        Known("key_file", "--key-file", "", _check_path, "your own key, for clusters that have keys: NAME.key"),
        Known("server_key", "--server-key", "", _check_path, "the public key of the cluster: NAME.pub"),
        Known("allow", "--allow", "", _check_path, "the directory of allowed keys that scalercli keys works on"),
    )
}

PATHS = ("key_file", "server_key", "allow")
"""Settings that are paths."""

given_before: set[str] = set()
"""Settings whose option stood before the command's name: their variables hold what it said."""

VARIABLES = {
    "SCALERCLI_STATE_DIR": "where sessions keep ledgers and logs, instead of the XDG state directory",
    "SCALERCLI_RUNTIME_DIR": "where the sockets of sessions are, instead of the XDG runtime directory",
    "SCALERCLI_TRACED_CLUSTER": "set by scalercli trace for what it runs",
    "NO_COLOR": "if not empty: no colour",
}
"""Variables that are not settings."""


def cluster(flag: str | None) -> str:
    """``embedded``, the name of a cluster on this machine, or an address. Raises CliError for a name that nobody
    defined."""
    setting = find("cluster", flag)
    return named_cluster(setting.value, "" if flag is not None else setting.origin)


def named_cluster(name: str, origin: str = "") -> str:
    """The same for a name that is known already; ``origin`` stands in the error message."""
    from_ = f" (from {origin})" if origin else ""
    if name == EMBEDDED:
        return EMBEDDED
    names = clusters()
    address = name if "://" in name else names[name].value if name in names else None
    if address is None and is_defined(name):
        return name
    if address is None:
        hint = meant(name, [EMBEDDED, *names, *local_names()])
        if hint is None:
            hint = f"scalercli cluster up --name {name}" if is_name(name) else "scalercli cluster list"
            if re.fullmatch(r"[^:/]+:\d+", name):
                hint = f"did you mean tcp://{name}?"
        raise CliError(f"no cluster is called {name!r}{from_}", hint)
    from reference_impl.addresses import Address

    try:
        parsed = Address.parse(address)
        if not parsed.port:
            raise ValueError(f"{address!r} has no port: a scheduler listens on one")
        return str(parsed)
    except ValueError as error:
        where = names[name].origin if name in names else origin
        raise CliError(f"{error}{f' (from {where})' if where else ''}", "scalercli help clusters") from None


def workers(flag: str | int | None) -> int:
    """0: one for each processor core."""
    return int(find("workers", flag, checked=True).value)


def memory_limit(flag: str | None = None) -> int:
    """Of a task, in bytes. 0: not limited."""
    return int(find("memory_limit_per_task", flag, checked=True).value)


def idle_seconds(flag: float | None = None) -> float:
    return float(find("idle_seconds", flag, checked=True).value)


def output(flag: str | None) -> Setting | None:
    """None: nobody has said."""
    setting = find("output", flag)
    return None if setting.origin == "default" else setting


def cancel_timeout(flag: float | None) -> float:
    """Seconds that a cancel waits for its answer."""
    return float(find("timeout", flag, checked=True).value)


def find(name: str, flag: Any = None, *, checked: bool = False) -> Setting:
    """The setting as it was written, or ``checked`` as it is used; raises CliError that names who set it."""
    known = KNOWN[name]
    setting = next(iter(origins(name, flag)))
    try:
        value = known.check(setting.value)
    except ValueError as error:
        says_so = str(error).startswith(repr(setting.value))
        wrong = f"{setting.origin}: {name}" if says_so else f"{setting.origin}: {name} can't be {setting.value!r}"
        close = meant(setting.value, OUTPUT_MODES) if name == "output" else None
        raise CliError(f"{wrong}: {error}", close or "scalercli help configuration") from None
    return Setting(value, setting.origin) if checked else setting


def origins(name: str, flag: Any = None) -> Iterable[Setting]:
    """Every place that sets it, the strongest first, the default last; raises CliError."""
    known = KNOWN[name]
    if flag is not None:
        yield Setting(native(known, flag), known.flag)
    if os.environ.get(known.variable):
        origin = known.flag if name in given_before else known.variable
        yield Setting(native(known, os.environ[known.variable]), origin)
    for path in files():
        content = read(path)
        if name in content:
            yield Setting(content[name], f"{path}:{_line(path, name)}")
    yield Setting(known.default, "default")


def native(known: Known, text: Any) -> Any:
    """What a word of a command line or of the environment is in a file."""
    if isinstance(text, str) and known.check in (_check_workers, _check_idle_seconds):
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


def clusters() -> dict[str, Setting]:
    """The addresses in [clusters] of the files, by name."""
    return {
        name: Setting(found["address"] if isinstance(found, dict) else found, origin)
        for name, (found, origin, _) in _clusters().items()
    }


def _clusters() -> dict[str, tuple[Any, str, Path]]:
    names: dict[str, tuple[Any, str, Path]] = {}
    for path in reversed(files()):
        for name, found in read(path).get(CLUSTERS, {}).items():
            names[name] = found, f"{path}:{_line(path, name)}", path
    return names


class Keys(NamedTuple):
    """Paths, absolute; empty where there are none."""

    key_file: str
    server_key: str


def keys(where: str) -> Keys:
    """The keys for a cluster, as ``cluster`` tells it: those that [clusters] has for that address, else the settings;
    but a variable is stronger than both. Those of a cluster on this machine, if it has any, are its own."""
    if is_local(where):
        places = Places(where)
        defined = definition.load(places)
        own = places.keys / "cluster.key", places.keys / "cluster.pub"
        return Keys(*map(str, own)) if defined is not None and defined.secure else Keys("", "")
    said = any(os.environ.get(KNOWN[name].variable) for name in Keys._fields)
    for found, _, file in () if said else _clusters().values():
        if isinstance(found, dict) and found["address"] == where and len(found) > 1:
            return Keys(*(_beside(file, found.get(name, "")) for name in Keys._fields))
    return Keys(*(path(name) for name in Keys._fields))


def path(name: str, flag: str | None = None) -> str:
    """A setting that is a path: absolute; one of a file is meant from that file's directory. Empty: it is not set."""
    setting = find(name, flag)
    file = setting.origin.rpartition(":")[0]
    return _beside(Path(file or FILE_NAME), setting.value)


def _beside(file: Path, value: str) -> str:
    return str(file.absolute().parent / Path(value).expanduser()) if value else ""


def files() -> list[Path]:
    """The configuration files, the strongest first; they need not exist."""
    return [Path(FILE_NAME), config_root() / FILE_NAME]


def readable() -> bool:
    """Whether every configuration file that exists can be used."""
    try:
        for path in files():
            read(path)
    except CliError:
        return False
    return True


def unknown_variables() -> list[str]:
    """``SCALERCLI_*`` that mean nothing."""
    known = {*VARIABLES, *(setting.variable for setting in KNOWN.values())}
    return sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in known)


def about_unknown(variable: str) -> str:
    """What to tell of such a variable."""
    names = [name for name in (*VARIABLES, *(known.variable for known in KNOWN.values())) if name.startswith(_PREFIX)]
    hint = meant(variable[len(_PREFIX) :], [name[len(_PREFIX) :] for name in names])
    return f"{variable} is not a setting{f'; {hint}' if hint else ''}"


def meant(word: Any, words: Iterable[str]) -> str | None:
    """``did you mean …?``, if there is something close."""
    import difflib

    close = difflib.get_close_matches(str(word), dict.fromkeys(words), 2, 0.6)
    return f"did you mean {' or '.join(close)}?" if close else None


@cache
def read(path: Path) -> dict[str, Any]:
    """What a configuration file holds, its names checked; raises CliError."""
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise CliError(f"{path}:{line}: not UTF-8", "scalercli help configuration") from None
    except OSError as error:
        raise CliError(f"can't read {path}: {error.strerror}", f"ls -ld {path}") from None
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        content: dict[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*?) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        line = text.count("\n") + (not text.endswith("\n")) if not found or not found[2] else int(found[2])
        what = found[1] if found else str(error)
        raise CliError(f"{path}:{line}: {what[:1].lower()}{what[1:]}", "scalercli help configuration") from None
    except ValueError:  # Python reads none with more than 4300 digits
        raise CliError(f"{path}: a number has too many digits", "scalercli help configuration") from None
    except RecursionError:
        raise CliError(f"{path}: brackets in brackets, too many to read", "scalercli help configuration") from None
    for name, value in content.items():
        if name == CLUSTERS:
            _check_names(path, value)
        elif name not in KNOWN:
            hint = meant(name, [*KNOWN, CLUSTERS]) or f"settings: {', '.join(KNOWN)}, and [clusters]"
            raise CliError(f"{path}:{_line(path, name)}: {name!r} is not a setting", hint)
    return content


def _check_names(path: Path, value: Any) -> None:
    if not isinstance(value, dict):
        raise CliError(
            f'{path}:{_line(path, CLUSTERS)}: [clusters] holds lines NAME = "tcp://HOST:PORT"',
            "scalercli help clusters",
        )
    for name, found in value.items():
        address = found.get("address") if isinstance(found, dict) else found
        if isinstance(found, dict) and (
            set(found) - {"address", *Keys._fields} or not all(isinstance(part, str) for part in found.values())
        ):
            raise CliError(
                f"{path}:{_line(path, name)}: a cluster has an address, a key_file and a server_key, not {found!r}",
                "scalercli help access",
            )
        if not isinstance(address, str) or is_local(address) or not is_name(name):
            where = f"{path}:{_line(path, name)}"
            raise CliError(
                f'{where}: [clusters] holds lines NAME = "tcp://HOST:PORT", not {name} = {address!r}',
                "scalercli help clusters",
            )


def _line(path: Path, name: str) -> int:
    """The line that sets it, by its looks: the parser does not tell."""
    pattern = re.compile(rf"""\s*(?:\[\s*)?["']?{re.escape(name)}["']?\s*[=.\]]""")
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if pattern.match(line):
            return number
    return 1
