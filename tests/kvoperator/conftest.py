"""Fixtures of the operator's tests."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kvtest.apiserver import ApiServer, binaries_present, running_api_server

CRDS = Path(__file__).resolve().parents[2] / "crds"


def load_crds() -> list[dict[str, Any]]:
    """The CRDs, as they are in the repository."""
    return [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """A kube-apiserver with the CRDs installed and established."""
    if not binaries_present():
        pytest.skip("no kube-apiserver and etcd in $KUBE_DIR/bin")
    with running_api_server() as server:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for crd in load_crds():
            code, answer = server.request("POST", path, crd)
            assert code == 201, answer["message"]
        give_up_at = time.monotonic() + 30
        for crd in load_crds():
            plural = crd["spec"]["names"]["plural"]
            while server.request("GET", f"/apis/kvcluster.dev/v1alpha1/{plural}")[0] != 200:
                assert time.monotonic() < give_up_at, f"{plural} is not served"
                time.sleep(0.05)
        yield server
