"""A Kubernetes API in memory, behind the operator's own port.

Objects, uids, resource versions, preconditions, finalizers of volume claims, graceful deletion of pods and
server-side apply by one manager.  No controllers: tests play those.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kvoperator.clients.kube import CLAIMS, PODS, Manifest, ResourceType, resource_of
from kvoperator.errors import KubeConflictError, KubeNotFoundError, KubeRefusedError
from kvoperator.model.status import to_timestamp

__all__ = ["FakeKube"]

Hook = Callable[[str, str, Manifest | None], None]


class FakeKube:
    """All objects of one API server.

    ``before`` and ``after`` are called around every request with the verb, the plural and the object it is
    about; they may raise what a broken connection or a dying operator would.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._objects: dict[tuple[str, str, str], Manifest] = {}
        self._applied: dict[str, Manifest] = {}
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self.before: Hook = lambda verb, plural, obj: None
        self.after: Hook = lambda verb, plural, obj: None
        self.writes = 0
        """Writes that changed something."""

    # -- the port --------------------------------------------------------------

    async def get(self, resource: ResourceType, namespace: str, name: str) -> Manifest | None:
        self.before("get", resource.plural, None)
        return _copy(self.find(resource, namespace, name))

    async def list(
        self, resource: ResourceType, namespace: str, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]:
        self.before("list", resource.plural, None)
        return [_copy(obj) for obj in self.all(resource, namespace) if _selected(obj, labels)]

    async def apply(self, manifest: Manifest, *, resource_version: str | None = None) -> Manifest:
        resource = resource_of(manifest)
        metadata = manifest["metadata"]
        self.before("apply", resource.plural, manifest)
        live = self.find(resource, metadata["namespace"], metadata["name"])
        if resource_version is not None and (
            live is None or live["metadata"]["resourceVersion"] != resource_version
        ):
            raise KubeConflictError("apply: resourceVersion", code=409)
        if live is None:
            stored = self.put(resource, manifest)
        else:
            merged = _copy(live)
            _remove_dropped(merged, self._applied.get(live["metadata"]["uid"], {}), manifest)
            _merge(merged, manifest)
            stored = self._store_changed(resource, live, merged)
        self._applied[stored["metadata"]["uid"]] = _copy(manifest)
        self.after("apply", resource.plural, stored)
        return _copy(stored)

    async def create(self, resource: ResourceType, namespace: str, manifest: Manifest) -> Manifest:
        self.before("create", resource.plural, manifest)
        body = _copy(manifest)
        metadata = body["metadata"]
        metadata.setdefault("namespace", namespace)
        if "name" not in metadata:
            metadata["name"] = f"{metadata.pop('generateName')}{next(self._uids)}"
        if self.find(resource, namespace, metadata["name"]) is not None:
            raise KubeConflictError("create: exists", code=409)
        stored = self.put(resource, body)
        self.after("create", resource.plural, stored)
        return _copy(stored)

    async def replace(self, resource: ResourceType, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        self.before("replace", resource.plural, manifest)
        live = self.find(resource, metadata["namespace"], metadata["name"])
        if live is None:
            raise KubeNotFoundError("replace", code=404)
        if live["metadata"]["resourceVersion"] != metadata.get("resourceVersion"):
            raise KubeConflictError("replace: resourceVersion", code=409)
        stored = self._store_changed(resource, live, _copy(manifest))
        self.after("replace", resource.plural, stored)
        return _copy(stored)

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
        self.before(f"patch{subresource}", resource.plural, patch)
        live = self.find(resource, namespace, name)
        if live is None:
            raise KubeNotFoundError(f"patch {name}", code=404)
        if uid is not None and live["metadata"]["uid"] != uid:
            raise KubeRefusedError(f"patch {name}: uid", code=422)
        if resource_version is not None and live["metadata"]["resourceVersion"] != resource_version:
            raise KubeConflictError(f"patch {name}: resourceVersion", code=409)
        merged = _copy(live)
        _merge_patch(merged, patch)
        stored = self._store_changed(resource, live, merged, is_status=subresource == "status")
        self.after(f"patch{subresource}", resource.plural, stored)
        return _copy(stored)

    async def delete(
        self, resource: ResourceType, namespace: str, name: str, *, uid: str, grace_s: int | None = None
    ) -> None:
        live = self.find(resource, namespace, name)
        self.before("delete", resource.plural, live)
        if live is None:
            return
        if live["metadata"]["uid"] != uid:
            raise KubeConflictError(f"delete {name}: uid", code=409)
        self.mark_deleted(resource, live, is_immediate=grace_s == 0)
        self.after("delete", resource.plural, live)

    # -- for tests -------------------------------------------------------------

    def find(self, resource: ResourceType, namespace: str, name: str) -> Manifest | None:
        return self._objects.get((resource.plural, namespace, name))

    def all(self, resource: ResourceType, namespace: str) -> Iterator[Manifest]:
        for plural, space, _ in sorted(self._objects):
            if (plural, space) == (resource.plural, namespace):
                yield self._objects[plural, space, _]

    def put(self, resource: ResourceType, manifest: Manifest) -> Manifest:
        """Create an object as a controller would."""
        stored = _copy(manifest)
        metadata = stored["metadata"]
        metadata["uid"] = f"uid-{next(self._uids)}"
        metadata["resourceVersion"] = str(next(self._versions))
        metadata["generation"] = 1
        metadata["creationTimestamp"] = to_timestamp(self._clock())
        if resource is CLAIMS:
            metadata["finalizers"] = ["kubernetes.io/pvc-protection"]
        self._objects[resource.plural, metadata["namespace"], metadata["name"]] = stored
        self.writes += 1
        return stored

    def update(self, resource: ResourceType, obj: Manifest, change: Callable[[Manifest], None]) -> None:
        """Change an object as a controller or a user would."""
        live = self.find(resource, obj["metadata"]["namespace"], obj["metadata"]["name"])
        if live is None or live["metadata"]["uid"] != obj["metadata"]["uid"]:
            return
        changed = _copy(live)
        change(changed)
        self._store_changed(resource, live, changed, is_status=changed.get("spec") == live.get("spec"))

    def mark_deleted(self, resource: ResourceType, live: Manifest, *, is_immediate: bool = False) -> None:
        """Pods end in grace and finalizers hold objects; everything else goes at once."""
        waits = resource is PODS and not is_immediate
        if waits or live["metadata"].get("finalizers"):
            if "deletionTimestamp" not in live["metadata"]:
                live["metadata"]["deletionTimestamp"] = to_timestamp(self._clock())
                live["metadata"]["resourceVersion"] = str(next(self._versions))
                self.writes += 1
        else:
            self.remove(resource, live)

    def remove(self, resource: ResourceType, live: Manifest) -> None:
        metadata = live["metadata"]
        self._objects.pop((resource.plural, metadata["namespace"], metadata["name"]), None)
        self.writes += 1

    def _store_changed(
        self, resource: ResourceType, live: Manifest, changed: Manifest, *, is_status: bool = False
    ) -> Manifest:
        if changed == live:
            return live
        metadata = changed["metadata"]
        metadata["resourceVersion"] = str(next(self._versions))
        if not is_status and changed.get("spec") != live.get("spec"):
            metadata["generation"] = int(metadata.get("generation", 1)) + 1
        self._objects[resource.plural, metadata["namespace"], metadata["name"]] = changed
        self.writes += 1
        return changed


def _copy(value: Any) -> Any:
    """Of objects in JSON's form, at a fraction of the cost of ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copy(inner) for inner in value]
    return value


def _selected(obj: Manifest, labels: Mapping[str, str] | None) -> bool:
    have = obj["metadata"].get("labels") or {}
    return all(have.get(key) == value for key, value in (labels or {}).items())


def _merge(live: Manifest, wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(live.get(key), dict):
            _merge(live[key], value)
        else:
            live[key] = _copy(value)


def _remove_dropped(live: Manifest, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key, value in before.items():
        if key not in wanted:
            live.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(live.get(key), dict):
            _remove_dropped(live[key], value, wanted[key] if isinstance(wanted[key], Mapping) else {})


def _merge_patch(live: Manifest, patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            live.pop(key, None)
        elif isinstance(value, Mapping):
            inner = live.get(key)
            if not isinstance(inner, dict):
                inner = live[key] = {}
            _merge_patch(inner, value)
        else:
            live[key] = _copy(value)
