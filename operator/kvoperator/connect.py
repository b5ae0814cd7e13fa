"""The way to a cluster's members: plain, or with the certificate from its secret."""

import base64
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

from kvoperator.clients.kube import SECRETS, KubeApi
from kvoperator.clients.member import MemberApi, MemberClient
from kvoperator.errors import MemberError
from kvoperator.model.spec import ClusterSpec

__all__ = ["MemberConnector"]

_FILES: Final = ("ca.crt", "tls.crt", "tls.key")


class MemberConnector:
    """Makes member clients; keeps each secret's files for as long as its content is the same."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube
        self._directory: Path | None = None
        self._written: dict[tuple[str, str], tuple[str, Path]] = {}

    async def __call__(self, namespace: str, spec: ClusterSpec) -> MemberApi:
        """
        Raises:
            MemberError: the secret is missing or incomplete.
            KubeError: it could not be read.
        """
        if spec.tls is None:
            return MemberClient()
        return MemberClient(await self._files(namespace, spec.tls.operator_secret))

    async def _files(self, namespace: str, name: str) -> Path:
        secret = await self._kube.get(SECRETS, namespace, name)
        if secret is None:
            raise MemberError(f"secret {name}, the operator's certificate for this cluster, does not exist")
        data = secret.get("data") or {}
        missing = [file for file in _FILES if not data.get(file)]
        if missing:
            raise MemberError(f"secret {name} lacks {', '.join(missing)}")
        content = {file: base64.b64decode(data[file]) for file in _FILES}
        digest = hashlib.sha256(b"\0".join(content[file] for file in _FILES)).hexdigest()
        known = self._written.get((namespace, name))
        if known is not None and known[0] == digest:
            return known[1]
        if self._directory is None:
            # Readable by this user only; the file system is the pod's own /tmp and ends with it.
            self._directory = Path(tempfile.mkdtemp(prefix="kvoperator-tls-"))
        folder = self._directory / f"{namespace}_{name}_{digest[:12]}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for file, text in content.items():
            (folder / file).write_bytes(text)
        if known is not None:
            shutil.rmtree(known[1], ignore_errors=True)
        self._written[namespace, name] = (digest, folder)
        return folder

    def close(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
