"""The list of allowed keys: a directory with one public key file for each peer that may take part.

A file that comes, changes or goes counts from the next look on, so that a key is allowed or revoked without a restart.
What can't be read allows nobody, unless that is for want of descriptors or memory: then the list stays as it was until
the next look, for else who uses these up could shut everybody out.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from reference_impl.access.keys import EVERYTHING, PUBLIC_SUFFIX, KeyFileError, PublicKey, load_public

_LOG = logging.getLogger("access")


_WANT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_Version = tuple[str, int, int, int]


def _version(entry: os.DirEntry[str]) -> _Version | None:
    """What differs when a file has changed; None for what is no key, and for one that goes just now."""
    if not entry.name.endswith(PUBLIC_SUFFIX) or entry.name.startswith("."):
        return None
    try:
        found = entry.stat()
    except FileNotFoundError:
        return None
    return entry.name, found.st_mtime_ns, found.st_size, found.st_ino


class AllowedKeys:
    """Who may take part. The cluster's own key is always allowed, for everything: whoever has it is the cluster."""

    def __init__(self, directory: Path, own: PublicKey) -> None:
        """Raises KeyFileError if there is no such directory, or others than its owner can change it."""
        self.directory = directory.absolute()
        self._own = own._replace(roles=EVERYTHING)
        self.by_curve: dict[bytes, PublicKey] = {}
        """By CURVE public key."""
        self.by_certificate: dict[bytes, PublicKey] = {}
        """By certificate, in DER."""
        self._seen: list[_Version] | None = None
        try:
            mode = self.directory.stat().st_mode
        except OSError as error:
            raise KeyFileError(f"can't read {directory}: {error.strerror}", "scalercli keys allow makes it") from None
        if not stat.S_ISDIR(mode):
            raise KeyFileError(f"{directory} is not a directory of allowed keys", "scalercli keys allow makes one")
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeyFileError(
                f"others can change the allowed keys in {directory} (mode {stat.S_IMODE(mode):04o})",
                f"chmod go-w {directory}",
            )
        self.look()

    def look(self) -> bool:
        """Reads the directory again if something in it has changed: whether it has."""
        try:
            with os.scandir(self.directory) as entries:
                found = sorted(filter(None, map(_version, entries)))
        except OSError as error:
            if self._must_wait(error):
                return False
            _LOG.error("the allowed keys can't be read, nobody is allowed: %s", error)
            found = []
        if found == self._seen:
            return False
        by_curve: dict[bytes, PublicKey] = {}
        by_certificate: dict[bytes, PublicKey] = {}

        def allow(key: PublicKey) -> None:
            before = by_curve.get(key.curve)
            if before is not None:
                key = key._replace(roles=key.roles | before.roles)
            by_curve[key.curve] = by_certificate[key.der] = key

        for name, *_ in found:
            path = Path(self.directory, name)
            try:
                allow(load_public(path)._replace(name=path.stem))
            except KeyFileError as error:
                if self._must_wait(error.__cause__):
                    return False
                _LOG.error("%s: it allows nobody", error)
        allow(self._own)
        self._seen, self.by_curve, self.by_certificate = found, by_curve, by_certificate
        return True

    def _must_wait(self, error: BaseException | None) -> bool:
        """Whether the list stays as it was because of this."""
        if self._seen is None or not isinstance(error, OSError) or error.errno not in _WANT:
            return False
        _LOG.error("the allowed keys can't be read just now, and stay as they were: %s", error.strerror)
        return True
