"""What all objects have in common: owner, labels, a stamp of what was applied, and how drift is found."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from kvoperator.model.names import API_VERSION, GROUP
from kvoperator.model.quantity import same_quantity

__all__ = ["Manifest", "drift", "owner_reference", "short_hash", "stamped"]

Manifest = dict[str, Any]

_ANNOTATION_STAMP: Final = f"{GROUP}/applied-hash"


def owner_reference(kind: str, name: str, uid: str) -> Manifest:
    """Makes the object go away with its owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def short_hash(value: object) -> str:
    """Sixteen hex digits that change whenever ``value`` does; dicts are compared without their order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamped(manifest: Manifest) -> Manifest:
    """The manifest with its own hash in an annotation.

    `drift` looks only at fields that are wanted, so a field that is wanted no longer would go unnoticed
    without it.
    """
    metadata = dict(manifest["metadata"])
    annotations = {**metadata.get("annotations", {}), _ANNOTATION_STAMP: short_hash(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def drift(wanted: object, live: object, path: str = "") -> str | None:
    """Path of the first wanted field that the live object lacks or has otherwise; None when there is none.

    What the API server adds (defaults, status, other managers' fields) is no drift, and neither is another
    way to write the same quantity, or a zero value (false, 0, "", empty) that it leaves out.
    """
    if not wanted and live is None:
        return None
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return path
        for key, value in wanted.items():
            found = drift(value, live.get(key), f"{path}.{key}" if path else str(key))
            if found is not None:
                return found
        return None
    if isinstance(wanted, list | tuple):
        return _list_drift(list(wanted), live, path)
    if wanted == live or same_quantity(wanted, live):
        return None
    return path


def _list_drift(wanted: list[Any], live: object, path: str) -> str | None:
    if not isinstance(live, list):
        return path
    if all(isinstance(one, Mapping) and "name" in one for one in wanted):
        by_name = {one.get("name"): one for one in live if isinstance(one, Mapping)}
        for one in wanted:
            found = drift(one, by_name.get(one["name"]), f"{path}[{one['name']}]")
            if found is not None:
                return found
        return None
    if len(wanted) != len(live):
        return path
    for index, (one, other) in enumerate(zip(wanted, live, strict=True)):
        found = drift(one, other, f"{path}[{index}]")
        if found is not None:
            return found
    return None
