"""Keys, certificates and kubeconfigs of the lab's components, all signed by one authority."""

import json

from kubelab import layout
from kubelab.shell import run

VALID_DAYS = "365"
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    "addons": "/O=system:masters/CN=addons",
}
API_SERVER_NAMES = ("localhost", *(f"kubernetes{tail}" for tail in ("", ".default", ".default.svc")))
API_SERVER_ADDRESSES = ("127.0.0.1", layout.CONTROL_ADDRESS, layout.API_SERVICE_ADDRESS)


def make_keys() -> None:
    layout.PKI.mkdir(parents=True, exist_ok=True)
    key, certificate = layout.PKI / "ca.key", layout.PKI / "ca.crt"
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", VALID_DAYS),
        *("-subj", "/CN=kube-lab-ca", "-keyout", key, "-out", certificate),
    )
    run("openssl", "genrsa", "-out", layout.PKI / "sa.key", "2048")
    run("openssl", "rsa", "-in", layout.PKI / "sa.key", "-pubout", "-out", layout.PKI / "sa.pub")
    names = [f"DNS:{name}" for name in (*API_SERVER_NAMES, f"{API_SERVER_NAMES[-1]}.cluster.local")]
    issue(
        "apiserver",
        "/CN=kube-apiserver",
        ",".join([*names, *(f"IP:{address}" for address in API_SERVER_ADDRESSES)]),
    )
    issue("front-proxy", "/CN=front-proxy")
    for name, subject in CLIENTS.items():
        issue(name, subject)
        write_kubeconfig(name)


def issue(name: str, subject: str, alternative_names: str = "") -> None:
    """Make a key and a certificate that serves and calls."""
    key, request, certificate, extensions = (
        layout.PKI / f"{name}.{kind}" for kind in ("key", "csr", "crt", "ext")
    )
    run(
        *("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject),
        *("-keyout", key, "-out", request),
    )
    lines = ["extendedKeyUsage=serverAuth,clientAuth"]
    if alternative_names:
        lines.append(f"subjectAltName={alternative_names}")
    extensions.write_text("\n".join(lines) + "\n")
    run(
        *("openssl", "x509", "-req", "-in", request, "-out", certificate, "-days", VALID_DAYS),
        *("-CA", layout.PKI / "ca.crt", "-CAkey", layout.PKI / "ca.key", "-CAcreateserial"),
        *("-extfile", extensions),
    )


def write_kubeconfig(name: str) -> None:
    cluster = {"server": layout.API_SERVER, "certificate-authority": str(layout.PKI / "ca.crt")}
    user = {
        "client-certificate": str(layout.PKI / f"{name}.crt"),
        "client-key": str(layout.PKI / f"{name}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
    }
    (layout.STATE / f"{name}.kubeconfig").write_text(json.dumps(config))
