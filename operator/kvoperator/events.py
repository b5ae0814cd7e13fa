"""Kubernetes Events: the history that people read with `kubectl describe`."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kvoperator.clients.kube import EVENTS, KubeApi
from kvoperator.errors import KubeError
from kvoperator.model.status import to_timestamp

__all__ = ["Event", "EventRecorder"]

logger = logging.getLogger(__name__)

_MAX_MESSAGE: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to an object; ``reason`` is one CamelCase word."""

    reason: str
    message: str
    is_warning: bool = False


class EventRecorder:
    """Posts events; one that can't be posted is logged and forgotten."""

    def __init__(self, kube: KubeApi, reporter: str) -> None:
        self._kube = kube
        self._reporter = reporter

    async def post(self, about: Mapping[str, Any], event: Event) -> None:
        metadata = about["metadata"]
        now = to_timestamp(time.time())
        log = logger.warning if event.is_warning else logger.info
        log(
            "event",
            extra={
                "object": f"{metadata['namespace']}/{metadata['name']}",
                "reason": event.reason,
                "text": event.message,
            },
        )
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion"),
            },
            "type": "Warning" if event.is_warning else "Normal",
            "reason": event.reason,
            "message": event.message[:_MAX_MESSAGE],
            "source": {"component": "kvoperator"},
            "reportingComponent": "kvcluster.dev/kvoperator",
            "reportingInstance": self._reporter,
            "action": event.reason,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._kube.create(EVENTS, metadata["namespace"], body)
        except KubeError as error:
            logger.warning("event not posted", extra={"error": str(error)})
