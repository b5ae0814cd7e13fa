"""Where the Kubernetes API is and how to log in to it: from inside a pod, or by a kubeconfig.

Only what an operator needs, read without the `kubernetes` package, whose import alone would take more memory
than all the rest.
"""

import base64
import os
import ssl
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["KubeConfig", "KubeConfigError", "load_config"]

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_REREAD_S: Final = 60.0
"""The kubelet renews the token in its file well before it ends; a minute's delay is harmless."""


class KubeConfigError(Exception):
    """There is no usable way to reach the Kubernetes API."""


@dataclass(slots=True)
class KubeConfig:
    server: str
    ssl_context: ssl.SSLContext | None
    namespace: str = "default"
    static_token: str | None = None
    token_file: Path | None = None
    _token: str = field(default="", repr=False)
    _token_read_s: float = 0.0

    def headers(self) -> dict[str, str]:
        token = self.static_token or self._token_from_file()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _token_from_file(self) -> str:
        if self.token_file is None:
            return ""
        now_s = time.monotonic()
        if not self._token or now_s - self._token_read_s > _TOKEN_REREAD_S:
            self._token = self.token_file.read_text().strip()
            self._token_read_s = now_s
        return self._token


def load_config() -> KubeConfig:
    """The kubeconfig that ``KUBECONFIG`` names, else the pod's service account, else ``~/.kube/config``.

    Raises:
        KubeConfigError: None of them is there, or the one found can't be used.
    """
    if os.environ.get("KUBECONFIG"):
        return _from_kubeconfig(Path(os.environ["KUBECONFIG"].split(":")[0]))
    if (_SERVICE_ACCOUNT / "token").exists() and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return _from_service_account()
    default = Path.home() / ".kube" / "config"
    if default.exists():
        return _from_kubeconfig(default)
    raise KubeConfigError("no KUBECONFIG, no service account, no ~/.kube/config")


def _from_service_account() -> KubeConfig:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if ":" in host:
        host = f"[{host}]"
    namespace_file = _SERVICE_ACCOUNT / "namespace"
    return KubeConfig(
        server=f"https://{host}:{port}",
        ssl_context=ssl.create_default_context(cafile=str(_SERVICE_ACCOUNT / "ca.crt")),
        namespace=namespace_file.read_text().strip() if namespace_file.exists() else "default",
        token_file=_SERVICE_ACCOUNT / "token",
    )


def _from_kubeconfig(path: Path) -> KubeConfig:
    try:
        raw = yaml.safe_load(path.read_text())
        context = _named(raw, "contexts", raw["current-context"])["context"]
        cluster = _named(raw, "clusters", context["cluster"])["cluster"]
        user = _named(raw, "users", context["user"])["user"] if context.get("user") else {}
        server = str(cluster["server"]).rstrip("/")
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise KubeConfigError(f"{path} can't be used: {error!r}") from error
    if user.get("exec") or user.get("auth-provider"):
        raise KubeConfigError(f"{path}: login by a plugin is not supported; use a token or a certificate")
    token_file = user.get("tokenFile")
    return KubeConfig(
        server=server,
        ssl_context=_ssl_context(path.parent, cluster, user) if server.startswith("https") else None,
        namespace=context.get("namespace") or "default",
        static_token=user.get("token"),
        token_file=path.parent / token_file if token_file else None,
    )


def _named(raw: Any, section: str, name: str) -> Any:
    return next(entry for entry in raw[section] if entry["name"] == name)


def _ssl_context(folder: Path, cluster: Any, user: Any) -> ssl.SSLContext:
    authority = _data_or_file(folder, cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = _data_or_file(folder, user, "client-certificate")
    key = _data_or_file(folder, user, "client-key")
    if certificate and key:
        # ssl reads a certificate chain from files only; this one lives for a moment, readable by us alone.
        with tempfile.NamedTemporaryFile() as both:
            both.write(certificate + b"\n" + key)
            both.flush()
            context.load_cert_chain(both.name)
    return context


def _data_or_file(folder: Path, entry: Any, name: str) -> bytes | None:
    data = entry.get(f"{name}-data")
    if data:
        return base64.b64decode(data)
    file = entry.get(name)
    return (folder / file).read_bytes() if file else None
