"""How the operator is run: from the environment, which the chart fills, and checked at the start."""

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kvoperator.model.status import Images

__all__ = ["Settings", "SettingsError", "settings_from"]

_LOG_LEVELS: Final = ("debug", "info", "warn", "error")
_LOG_FORMATS: Final = ("json", "console")


class SettingsError(ValueError):
    """A setting that can't be used; the message names it, its value and what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    default_images: Images
    """Images of clusters that name none; written into their status once, at their creation."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty for all of them, which needs cluster-wide rights."""
    lease_namespace: str = "kvcluster-system"
    lease_name: str = "kvoperator"
    identity: str = ""
    """Who we are in the Lease: the pod's name, which no two running pods share."""
    http_port: int = 8080
    """/metrics, /healthz and /readyz."""
    log_level: int = logging.INFO
    log_format: str = "json"
    concurrency: int = 16
    """Passes under way at the same time."""


def settings_from(environ: Mapping[str, str] | None = None) -> Settings:
    """Read ``KVOPERATOR_*``, ``POD_NAME`` and ``POD_NAMESPACE``.

    Raises:
        SettingsError: one is missing or can't be used.
    """
    env = os.environ if environ is None else environ
    node, agent = env.get("KVOPERATOR_NODE_IMAGE", ""), env.get("KVOPERATOR_AGENT_IMAGE", "")
    for name, value in (("KVOPERATOR_NODE_IMAGE", node), ("KVOPERATOR_AGENT_IMAGE", agent)):
        if not value:
            raise SettingsError(f"{name} is not set; it must name an image")
    namespaces = [part.strip() for part in env.get("KVOPERATOR_WATCH_NAMESPACES", "").split(",")]
    return Settings(
        default_images=Images(node=node, agent=agent),
        namespaces=tuple(sorted({part for part in namespaces if part})),
        lease_namespace=env.get("POD_NAMESPACE") or "kvcluster-system",
        lease_name=env.get("KVOPERATOR_LEASE_NAME") or "kvoperator",
        identity=env.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        http_port=_whole_number(env, "KVOPERATOR_HTTP_PORT", 8080, 0, 65535),
        log_level=_log_level(env.get("KVOPERATOR_LOG_LEVEL") or "info"),
        log_format=_choice("KVOPERATOR_LOG_FORMAT", env.get("KVOPERATOR_LOG_FORMAT") or "json", _LOG_FORMATS),
        concurrency=_whole_number(env, "KVOPERATOR_CONCURRENCY", 16, 1, 256),
    )


def _whole_number(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise SettingsError(f"{name} is {text!r}; it must be a number from {low} to {high}")
    return int(text)


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    return value


def _log_level(text: str) -> int:
    name = _choice("KVOPERATOR_LOG_LEVEL", text.lower(), _LOG_LEVELS)
    return {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}[
        name
    ]
