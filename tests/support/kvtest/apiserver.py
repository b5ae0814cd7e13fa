"""A real kube-apiserver on 127.0.0.1, with an etcd or another store, without kubelets and controllers.

For what only the API server can answer: whether the CRDs install, what their CEL rules refuse, who owns a
field after a server-side apply, what it makes of its store. The tests play the controllers themselves.

The binaries are looked for in ``$KUBE_DIR/bin`` (default ``/var/tmp/kube/bin``, where the lab compiles them).
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kvtest.ports import free_ports

__all__ = ["ApiServer", "binaries_present", "decoded", "running_api_server"]

_BIN = Path(os.environ.get("KUBE_DIR", "/var/tmp/kube")) / "bin"
_START_DEADLINE_S = 90.0


def binaries_present() -> bool:
    """Whether kube-apiserver and etcd can be started here."""
    return all((_BIN / name).exists() for name in ("kube-apiserver", "etcd"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """A running API server; ``token`` belongs to a member of system:masters."""

    url: str
    token: str
    ca_file: Path
    directory: Path

    def kubeconfig(self) -> Path:
        """Path of a kubeconfig for this server."""
        path = self.directory / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)},
                        }
                    ],
                    "users": [{"name": "test", "user": {"token": self.token}}],
                }
            )
        )
        return path

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        """One blocking request; returns the status code and the decoded answer, whatever the code is."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", content_type)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return answer.status, decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, decoded(error.read())


def decoded(body: bytes) -> dict[str, Any]:
    """Return an answer's JSON object; text that is none (of a probe, or an error) as its ``message``."""
    try:
        found: dict[str, Any] = json.loads(body or b"{}")
    except ValueError:
        return {"message": body.decode(errors="replace")}
    return found


def _write_service_account_keys(directory: Path) -> tuple[Path, Path]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = directory / "sa.key", directory / "sa.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


@contextlib.contextmanager
def running_api_server(store: Sequence[str] = (), flags: Sequence[str] = ()) -> Iterator[ApiServer]:
    """Start kube-apiserver in a directory of its own; stop it and remove all at the end.

    Args:
        store: Client URLs of the store to use; without any, an etcd is started and stopped, too.
        flags: Further flags of the API server.
    """
    directory = Path(tempfile.mkdtemp(prefix="kvcluster-apiserver-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        log: IO[bytes] = stack.enter_context((directory / "log").open("wb"))

        def start(*command: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=directory)
            stack.callback(_stop, process)
            return process

        (secure_port,) = free_ports(1)
        processes = []
        if not store:
            store, etcd = _start_etcd(directory, start)
            processes.append(etcd)
        private, public = _write_service_account_keys(directory)
        token = secrets.token_hex(16)
        (directory / "tokens.csv").write_text(f'{token},test,test,"system:masters"\n')
        server = start(
            str(_BIN / "kube-apiserver"),
            f"--etcd-servers={','.join(store)}",
            f"--cert-dir={directory / 'pki'}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={secure_port}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            f"--token-auth-file={directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            "--v=1",
            *flags,
        )
        api = ApiServer(
            url=f"https://127.0.0.1:{secure_port}",
            token=token,
            ca_file=directory / "pki" / "apiserver.crt",
            directory=directory,
        )
        _wait_until_ready(api, [*processes, server], directory / "log")
        yield api


def _start_etcd(
    directory: Path, start: Callable[..., "subprocess.Popen[bytes]"]
) -> tuple[list[str], "subprocess.Popen[bytes]"]:
    client_port, peer_port = free_ports(2)
    url = f"http://127.0.0.1:{client_port}"
    process = start(
        str(_BIN / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
        "--log-level=error",
    )
    return [url], process


def _wait_until_ready(api: ApiServer, processes: "list[subprocess.Popen[bytes]]", log: Path) -> None:
    give_up_at = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < give_up_at:
        if any(process.poll() is not None for process in processes):
            break
        if api.ca_file.exists():
            with contextlib.suppress(OSError, ssl.SSLError):
                # The default namespace is made by a post-start hook: with it there, objects can be created.
                # Until all hooks have ended, it ends itself when its store has as much as a hiccup.
                paths = ("/api/v1/namespaces/default", "/readyz")
                if all(api.request("GET", path)[0] == 200 for path in paths):
                    return
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"kube-apiserver did not come up:\n{tail}")
