"""DNS and volumes: CoreDNS and the local-path provisioner, as processes beside the control plane."""

import json
import textwrap

from kubelab import layout
from kubelab.control_plane import kubectl
from kubelab.shell import start

KUBECONFIG = layout.STATE / "addons.kubeconfig"


def start_addons() -> None:
    layout.VOLUMES.mkdir(exist_ok=True)
    objects = [_storage_class(), _provisioner_config(), *_dns_service()]
    kubectl(*("apply", "-f", "-"), stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    _start_dns()
    _start_provisioner()


def _start_dns() -> None:
    corefile = layout.STATE / "Corefile"
    corefile.write_text(
        textwrap.dedent(f"""\
            .:53 {{
                bind {layout.CONTROL_ADDRESS}
                errors
                kubernetes cluster.local in-addr.arpa {{
                    kubeconfig {KUBECONFIG} lab
                    pods insecure
                    ttl 5
                }}
                reload
            }}
            """)
    )
    start("coredns", layout.BIN / "coredns", "-conf", corefile)


def _dns_service() -> list[dict[str, object]]:
    """Return the Service that pods ask, and its endpoint: the process at the control plane's address."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    service: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": layout.DNS_SERVICE_ADDRESS, "ports": ports},
    }
    endpoints: dict[str, object] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [layout.CONTROL_ADDRESS], "conditions": {"ready": True}}],
        "ports": ports,
    }
    return [service, endpoints]


def _storage_class() -> dict[str, object]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "rancher.io/local-path",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete",
    }


def _provisioner_config() -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "local-path-config", "namespace": "kube-system"},
        "data": _provisioner_files(),
    }


def _provisioner_files() -> dict[str, str]:
    """Return the provisioner's settings and scripts; it runs these in a pod on the volume's node."""
    paths = {"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [str(layout.VOLUMES)]}
    return {
        "config.json": json.dumps({"nodePathMap": [paths]}),
        # Open to all users, as fsGroup does not reach a hostPath volume.
        "setup": '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n',
        "teardown": '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n',
        "helperPod.yaml": json.dumps(_helper_pod()),
    }


def _helper_pod() -> dict[str, object]:
    container = {"name": "helper-pod", "image": layout.BUSYBOX_IMAGE, "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {"containers": [container]},
    }


def _start_provisioner() -> None:
    config, helper = layout.STATE / "provisioner.json", layout.STATE / "helperPod.yaml"
    files = _provisioner_files()
    config.write_text(files["config.json"])
    helper.write_text(files["helperPod.yaml"])
    start(
        "local-path-provisioner",
        *(layout.BIN / "local-path-provisioner", "start", "--kubeconfig", KUBECONFIG, "--config", config),
        *("--namespace", "kube-system", "--configmap-name", "local-path-config"),
        *("--service-account-name", "default"),
        *("--helper-image", layout.BUSYBOX_IMAGE, "--helper-pod-file", helper),
        env={"POD_NAMESPACE": "kube-system"},
    )
