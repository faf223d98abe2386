"""Settings and where they come from: flag > ``SCALERCLI_*`` > ./scalercli.toml > the user's configuration file.

```toml
cluster = "lab"            # embedded, an address, or a name from [clusters]
workers = 4                # of the embedded cluster
idle_seconds = 600         # after which a session without tasks ends; 0: never
output = "text"
timeout = "15s"            # of a cancel
[clusters]
lab = "tcp://10.0.0.5:6378"
```
"""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from scalercli import durations
from scalercli.errors import CliError
from scalercli.places import EMBEDDED

FILE_NAME = "scalercli.toml"
DEFAULT_IDLE_SECONDS = 600.0
DEFAULT_CANCEL_TIMEOUT = 15.0
_NAMES = {"cluster": str, "workers": int, "idle_seconds": (int, float), "output": str, "timeout": str}


class Setting(NamedTuple):
    value: Any
    origin: str


def cluster(flag: str | None) -> str:
    """``embedded`` or an address. Raises CliError for a name that nobody defined."""
    setting = _find("cluster", flag, "--cluster")
    named = setting.value if setting else EMBEDDED
    if named == EMBEDDED:
        return EMBEDDED
    address = named if "://" in named else _cluster_names().get(named)
    if address is None:
        known = ", ".join(sorted(_cluster_names())) or "none"
        raise CliError(
            f"no cluster is called {named!r} (from {setting.origin if setting else 'nowhere'}; known: {known})",
            f"an address tcp://HOST:PORT, or a line in [clusters] of {FILE_NAME}",
        )
    from reference_impl.addresses import Address

    try:
        return str(Address.parse(address))
    except ValueError as error:
        raise CliError(str(error), "for example --cluster tcp://127.0.0.1:6378") from None


def workers(flag: int | None) -> int:
    """0: one for each processor core."""
    setting = _find("workers", flag, "--workers")
    if setting is None:
        return 0
    try:
        count = int(setting.value)
    except ValueError:
        count = 0
    if not 1 <= count <= 1024:
        raise CliError(f"workers is a number from 1 to 1024, not {setting.value!r} (from {setting.origin})")
    return count


def idle_seconds() -> float:
    setting = _find("idle_seconds", None, "")
    if setting is None:
        return DEFAULT_IDLE_SECONDS
    try:
        seconds = float(setting.value)
    except ValueError:
        seconds = -1.0
    if seconds < 0 or not math.isfinite(seconds):
        raise CliError(f"idle_seconds is a number of seconds, not {setting.value!r} (from {setting.origin})")
    return seconds


def output(flag: str | None) -> Setting | None:
    return _find("output", flag, "--output")


def cancel_timeout(flag: float | None) -> float:
    """Seconds that a cancel waits for its answer."""
    if flag is not None:
        return flag
    setting = _find("timeout", None, "")
    if setting is None:
        return DEFAULT_CANCEL_TIMEOUT
    try:
        return durations.parse(str(setting.value))
    except ValueError as error:
        raise CliError(f"timeout: {error} (from {setting.origin})") from None


def _find(name: str, flag: Any, flag_name: str) -> Setting | None:
    if flag is not None:
        return Setting(flag, flag_name)
    variable = f"SCALERCLI_{name.upper()}"
    if os.environ.get(variable):
        return Setting(os.environ[variable], variable)
    for path in files():
        content = _read(path)
        if name in content:
            return Setting(content[name], str(path))
    return None


def _cluster_names() -> dict[str, str]:
    names: dict[str, str] = {}
    for path in reversed(files()):
        names.update(_read(path).get("clusters", {}))
    return names


def files() -> list[Path]:
    """The configuration files, the strongest first; they need not exist."""
    return [Path(FILE_NAME), platformdirs.user_config_path("scalercli", appauthor=False) / FILE_NAME]


@cache
def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"can't read {path}: {error}") from None
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        content: dict[str, Any] = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise CliError(f"{path}: {error}") from None
    for name, value in content.items():
        if name == "clusters":
            if not isinstance(value, dict) or not all(isinstance(address, str) for address in value.values()):
                raise CliError(f'{path}: [clusters] holds lines NAME = "tcp://HOST:PORT"')
        elif name not in _NAMES:
            known = ", ".join([*_NAMES, "[clusters]"])
            raise CliError(f"{path}: {name!r} is not a setting (settings: {known})")
        elif not isinstance(value, _NAMES[name]) or isinstance(value, bool):  # type: ignore[arg-type]
            raise CliError(f"{path}: {name} can't be {value!r}")
    return content
