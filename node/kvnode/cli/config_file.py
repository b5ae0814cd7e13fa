"""The configuration file: YAML with etcd's keys, turned into the values of the flags that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["ConfigFileError", "read_config_file"]


class ConfigFileError(Exception):
    """The file can't be used; the message is one whole sentence."""


#: Sections of certificates, and what their keys are called as flags once the prefix is put in front.
_SECURITY_SECTIONS = {"client-transport-security": "", "peer-transport-security": "peer-"}
_SECURITY_KEYS = {
    "cert-file": "cert-file",
    "key-file": "key-file",
    "client-cert-file": "client-cert-file",
    "client-key-file": "client-key-file",
    "client-cert-auth": "client-cert-auth",
    "trusted-ca-file": "trusted-ca-file",
    "auto-tls": "auto-tls",
    "allowed-cn": "cert-allowed-cn",
    "allowed-hostname": "cert-allowed-hostname",
    "skip-client-san-verification": "skip-client-san-verification",
    "crl-file": "crl-file",
}
#: What does not follow the rule.
_SECURITY_FLAGS = {
    "cert-allowed-hostname": "client-cert-allowed-hostname",
    "crl-file": "client-crl-file",
}
_SOCKET_KEYS = {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"}


def read_config_file(path: str, durations: frozenset[str]) -> dict[str, str]:
    """Return the values that a file gives, as text by flag name; keys that name no flag are among them.

    Args:
        path: of the file.
        durations: flags that take one; a bare number in the file is nanoseconds, as etcd reads it.
    Raises:
        ConfigFileError: It can't be read, or is not what a configuration file looks like.
    """
    # Imported here: almost every member is started by flags, and need not wait for it.
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise ConfigFileError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigFileError(f"the configuration file {path} is not YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigFileError(f"the configuration file {path} must hold keys and values")
    given: dict[str, str] = {}
    for flag, value in _flags(path, content):
        text = _text(path, flag, value)
        if flag in durations and text.lstrip("+-").isdigit():
            text += "ns"
        given[flag] = text
    return given


def _flags(path: str, content: Mapping[Any, Any]) -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if value is None:
            continue  # a key without a value: the default
        if key in _SECURITY_SECTIONS:
            prefix = _SECURITY_SECTIONS[key]
            for name, entry in _section(path, key, value):
                flag = _SECURITY_KEYS.get(name, name)
                yield (_SECURITY_FLAGS.get(flag, flag) if not prefix else prefix + flag), entry
        elif key == "socket-options":
            for name, entry in _section(path, key, value):
                yield _SOCKET_KEYS.get(name, name), entry
        elif key == "discovery-config":
            for name, entry in _section(path, key, value):
                yield f"discovery-{name}", entry
        else:
            yield str(key), value


def _section(path: str, key: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict):
        raise ConfigFileError(f"{key} in the configuration file {path} must be a section")
    return ((str(name), entry) for name, entry in value.items() if entry is not None)


def _text(path: str, flag: str, value: object) -> str:
    """A value as the command line would give it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(path, flag, entry) for entry in value)
    if isinstance(value, str | int | float):
        return str(value)
    kind = "a section" if isinstance(value, dict) else type(value).__name__
    raise ConfigFileError(f"{flag} in the configuration file {path} can't be {kind}")
