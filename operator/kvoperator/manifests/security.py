"""Pod security that the `restricted` standard admits."""

from typing import Final

from kvoperator.manifests.metadata import Manifest

__all__ = ["USER_ID", "container_security", "pod_security"]

USER_ID: Final = 65532
"""User and group of the images; volumes are given to the group, so that a member can write them."""


def pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        # A volume full of data would else be walked on every start of the pod.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
