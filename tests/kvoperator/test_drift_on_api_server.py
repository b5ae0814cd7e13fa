"""What a real API server makes of our objects is no drift: else they would be applied again in every pass."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kvoperator.clients.config import load_config
from kvoperator.clients.kube import KubeClient, resource_of
from kvoperator.manifests.metadata import drift
from kvtest.apiserver import ApiServer

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
async def kube(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig()))
    api_server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "apps"}})
    client = KubeClient(load_config())
    yield client
    await client.close()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
async def test_an_applied_object_has_not_drifted(kube: KubeClient, path: Path) -> None:
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    manifest["metadata"]["name"] = path.stem
    applied = await kube.apply(manifest)
    live = await kube.get(resource_of(manifest), "apps", path.stem)
    assert drift(manifest, live) is None
    again = await kube.apply(manifest)
    assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]
