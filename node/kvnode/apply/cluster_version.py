"""The version that the cluster as a whole speaks, and a downgrade of it that is under way.

Both are replicated, as in etcd: whoever asks any member is told the same.  The numbers are those of the
etcd API that is served.  Nothing of this cluster's data depends on them; they follow etcd's rules so that
the procedures, and the programs, that watch them go on working.
"""

import json
import re
from typing import Final, NamedTuple

from kvnode.apply.errors import (
    ApplyError,
    CommandFormatError,
    DowngradeInProgressError,
    InvalidDowngradeTargetError,
)
from kvnode.storage.engine import ReadView, WriteBatch
from kvnode.storage.keyspace import meta_key

__all__ = [
    "CLUSTER_VERSION",
    "ClusterVersion",
    "MinorVersion",
    "decode_downgrade",
    "decode_version",
    "encode_downgrade",
    "encode_version",
    "parse_minor_version",
]

VERSION_KEY: Final = meta_key("cluster_version")
DOWNGRADE_KEY: Final = meta_key("downgrade_target")

_SEMVER: Final = re.compile(
    r"([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,18})(-[0-9A-Za-z.-]*)?(\+[0-9A-Za-z.-]*)?"
)


class MinorVersion(NamedTuple):
    """A version without its patch level."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.0"

    @property
    def short(self) -> str:
        """The version without a patch level, as in answers about downgrades."""
        return f"{self.major}.{self.minor}"

    @property
    def previous(self) -> "MinorVersion":
        """The only version that a cluster of this one may be downgraded to."""
        return MinorVersion(self.major, self.minor - 1)


#: What this program makes of a cluster whose members all run it.
CLUSTER_VERSION: Final = MinorVersion(3, 6)


def parse_minor_version(text: str) -> MinorVersion | None:
    """Return the version of ``3.5.1`` or ``3.5``; None if the text is no version."""
    match = _SEMVER.fullmatch(text) or _SEMVER.fullmatch(text + ".0")
    return None if match is None else MinorVersion(int(match[1]), int(match[2]))


def encode_version(version: MinorVersion) -> bytes:
    """Return the payload of a CLUSTER_VERSION command."""
    return json.dumps(list(version)).encode()


def decode_version(payload: bytes) -> MinorVersion:
    """Return the version that ``encode_version`` was given.

    Raises:
        CommandFormatError: the payload was not made by it.
    """
    try:
        major, minor = json.loads(payload)
        return MinorVersion(int(major), int(minor))
    except (ValueError, TypeError) as error:
        raise CommandFormatError(f"not a version: {error}") from error


def encode_downgrade(target: MinorVersion | None) -> bytes:
    """Return the payload of a DOWNGRADE command; None ends a downgrade."""
    return b"" if target is None else encode_version(target)


def decode_downgrade(payload: bytes) -> MinorVersion | None:
    """Return what ``encode_downgrade`` was given; raises as ``decode_version``."""
    return decode_version(payload) if payload else None


class ClusterVersion:
    """The replicated version and downgrade of one cluster."""

    def __init__(self, version: MinorVersion = CLUSTER_VERSION, target: MinorVersion | None = None) -> None:
        #: What every member may rely on the others to speak.
        self.version = version
        #: Where a downgrade goes; None: none is under way.
        self.downgrade_target = target

    @classmethod
    def open(cls, engine: ReadView) -> "ClusterVersion":
        """Read both from the state database; a new cluster has this program's version."""
        version, target = engine.get(VERSION_KEY), engine.get(DOWNGRADE_KEY)
        return cls(
            CLUSTER_VERSION if version is None else decode_version(version),
            None if target is None else decode_version(target),
        )

    def check_downgrade(self, target: MinorVersion) -> ApplyError | None:
        """Return why a downgrade to ``target`` can't begin, or None."""
        if target != self.version.previous:
            return InvalidDowngradeTargetError()
        return None if self.downgrade_target is None else DowngradeInProgressError()

    def set_version(self, version: MinorVersion, batch: WriteBatch) -> None:
        """Change the version, here and in ``batch``."""
        self.version = version
        batch.put(VERSION_KEY, encode_version(version))

    def set_downgrade(self, target: MinorVersion | None, batch: WriteBatch) -> None:
        """Begin a downgrade, or end it with None, here and in ``batch``."""
        self.downgrade_target = target
        if target is None:
            batch.delete(DOWNGRADE_KEY)
        else:
            batch.put(DOWNGRADE_KEY, encode_version(target))

    @property
    def due(self) -> MinorVersion:
        """What the leader should make ``version`` be: the downgrade's target, else this program's."""
        return self.downgrade_target or CLUSTER_VERSION
