"""The Kubernetes API, as far as the operator uses it: read, server-side apply, guarded patch and delete.

Objects are plain dicts.  `KubeApi` is the port; tests put an API server of their own behind it.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp

from kvoperator.clients.config import KubeConfig
from kvoperator.errors import (
    KubeConflictError,
    KubeError,
    KubeNotFoundError,
    KubeRefusedError,
    KubeUnavailableError,
)
from kvoperator.model.names import API_VERSION, FIELD_MANAGER

__all__ = [
    "CLAIMS",
    "CLUSTERS",
    "DISRUPTION_BUDGETS",
    "EVENTS",
    "JOBS",
    "LEASES",
    "PODS",
    "SECRETS",
    "SERVICES",
    "SERVICE_ACCOUNTS",
    "SNAPSHOTS",
    "STATEFUL_SETS",
    "KubeApi",
    "KubeClient",
    "Manifest",
    "ResourceType",
    "resource_of",
]

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]

_TIMEOUT_S: Final = 15.0
_READ_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class ResourceType:
    api_version: str
    plural: str
    kind: str

    def path(self, namespace: str, name: str | None = None, subresource: str = "") -> str:
        prefix = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        path = f"{prefix}/namespaces/{quote(namespace)}/{self.plural}"
        if name is not None:
            path += f"/{quote(name)}"
        return f"{path}/{subresource}" if subresource else path


CLUSTERS: Final = ResourceType(API_VERSION, "kvclusters", "KVCluster")
SNAPSHOTS: Final = ResourceType(API_VERSION, "kvsnapshots", "KVSnapshot")
STATEFUL_SETS: Final = ResourceType("apps/v1", "statefulsets", "StatefulSet")
PODS: Final = ResourceType("v1", "pods", "Pod")
CLAIMS: Final = ResourceType("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SERVICES: Final = ResourceType("v1", "services", "Service")
SERVICE_ACCOUNTS: Final = ResourceType("v1", "serviceaccounts", "ServiceAccount")
SECRETS: Final = ResourceType("v1", "secrets", "Secret")
EVENTS: Final = ResourceType("v1", "events", "Event")
DISRUPTION_BUDGETS: Final = ResourceType("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
JOBS: Final = ResourceType("batch/v1", "jobs", "Job")
LEASES: Final = ResourceType("coordination.k8s.io/v1", "leases", "Lease")

_BY_KIND: Final = {
    one.kind: one
    for one in (
        CLUSTERS,
        SNAPSHOTS,
        STATEFUL_SETS,
        PODS,
        CLAIMS,
        SERVICES,
        SERVICE_ACCOUNTS,
        DISRUPTION_BUDGETS,
        JOBS,
    )
}


def resource_of(manifest: Mapping[str, Any]) -> ResourceType:
    """The type of an object by its kind."""
    return _BY_KIND[manifest["kind"]]


class KubeApi(Protocol):
    """What the operator asks of Kubernetes.  Every method raises KubeError subclasses."""

    async def get(self, resource: ResourceType, namespace: str, name: str) -> Manifest | None:
        """The object, read from the API server's store and not from a cache; None if there is none."""
        ...

    async def list(
        self, resource: ResourceType, namespace: str, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]: ...

    async def apply(self, manifest: Manifest, *, resource_version: str | None = None) -> Manifest:
        """Server-side apply, taking over fields from other managers."""
        ...

    async def create(self, resource: ResourceType, namespace: str, manifest: Manifest) -> Manifest: ...

    async def replace(self, resource: ResourceType, manifest: Manifest) -> Manifest:
        """Put an object whose ``metadata.resourceVersion`` must still be the stored one's."""
        ...

    async def patch(
        self,
        resource: ResourceType,
        namespace: str,
        name: str,
        patch: Manifest,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        subresource: str = "",
    ) -> Manifest:
        """JSON merge patch, if the object still is the one with this uid and version."""
        ...

    async def delete(
        self,
        resource: ResourceType,
        namespace: str,
        name: str,
        *,
        uid: str,
        grace_s: int | None = None,
    ) -> None:
        """Delete exactly the object with this uid; its dependants go in the background."""
        ...


class KubeClient:
    """`KubeApi` over HTTPS."""

    def __init__(self, config: KubeConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, resource: ResourceType, namespace: str, name: str) -> Manifest | None:
        try:
            return await self._read(resource.path(namespace, name))
        except KubeNotFoundError:
            return None

    async def list(
        self, resource: ResourceType, namespace: str, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        params = {}
        if labels:
            params["labelSelector"] = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        answer = await self._read(resource.path(namespace), params)
        items: list[Manifest] = answer.get("items") or []
        return items

    async def apply(self, manifest: Manifest, *, resource_version: str | None = None) -> Manifest:
        metadata = dict(manifest["metadata"])
        if resource_version is not None:
            metadata["resourceVersion"] = resource_version
        path = resource_of(manifest).path(metadata["namespace"], metadata["name"])
        return await self._call(
            "PATCH",
            path,
            {**manifest, "metadata": metadata},
            params={"fieldManager": FIELD_MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )

    async def create(self, resource: ResourceType, namespace: str, manifest: Manifest) -> Manifest:
        params = {"fieldManager": FIELD_MANAGER}
        return await self._call("POST", resource.path(namespace), manifest, params=params)

    async def replace(self, resource: ResourceType, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        return await self._call("PUT", path, manifest, params={"fieldManager": FIELD_MANAGER})

    async def patch(
        self,
        resource: ResourceType,
        namespace: str,
        name: str,
        patch: Manifest,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        subresource: str = "",
    ) -> Manifest:
        metadata = dict(patch.get("metadata") or {})
        if uid is not None:
            # The server refuses a patch that would change an object's uid: that makes it a precondition.
            metadata["uid"] = uid
        if resource_version is not None:
            metadata["resourceVersion"] = resource_version
        body = {**patch, "metadata": metadata} if metadata else patch
        return await self._call(
            "PATCH",
            resource.path(namespace, name, subresource),
            body,
            params={"fieldManager": FIELD_MANAGER},
            content_type="application/merge-patch+json",
        )

    async def delete(
        self,
        resource: ResourceType,
        namespace: str,
        name: str,
        *,
        uid: str,
        grace_s: int | None = None,
    ) -> None:
        options: Manifest = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            await self._call("DELETE", resource.path(namespace, name), options)
        except KubeNotFoundError:
            return

    async def is_served(self, resource: ResourceType) -> bool:
        """Whether the API server knows the type: its CRD is installed and established."""
        try:
            answer = await self._read(f"/apis/{resource.api_version}")
        except KubeNotFoundError:
            return False
        return any(one.get("name") == resource.plural for one in answer.get("resources") or ())

    async def _read(self, path: str, params: Mapping[str, str] | None = None) -> Manifest:
        """A read may be repeated at once; the caller of a write has to look first what became of it."""
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                return await self._call("GET", path, params=params)
            except KubeUnavailableError:
                if attempt == _READ_ATTEMPTS:
                    raise
                await asyncio.sleep(0.2 * attempt)
        raise AssertionError("unreachable")

    async def _call(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._config.ssl_context or True, limit=32)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
            )
        headers = {**self._config.headers(), "Accept": "application/json"}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body).encode()
        try:
            async with self._session.request(
                method, self._config.server + path, params=params, data=data, headers=headers
            ) as response:
                text = await response.text()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeUnavailableError(f"{method} {path}: {error!r}", code=0) from error
        if status >= 300:
            raise _error(method, path, status, text)
        answer: Manifest = json.loads(text) if text else {}
        return answer


def _error(method: str, path: str, status: int, text: str) -> KubeError:
    try:
        message = str(json.loads(text).get("message") or text)
    except (ValueError, AttributeError):
        message = text
    message = f"{method} {path}: {status} {message[:500]}"
    if status == 404:
        return KubeNotFoundError(message, code=status)
    if status == 409:
        return KubeConflictError(message, code=status)
    if status in (400, 401, 403, 405, 413, 415, 422):
        return KubeRefusedError(message, code=status)
    return KubeUnavailableError(message, code=status)
