"""The version that clients are told.

It is the etcd release whose API is served, as clients decide by it what they may use: kubeadm wants
at least 3.5.24, kube-apiserver asks for progress notifications from 3.5.13 on, and RangeStream is
expected only from 3.7.  kvcluster's own version is ``kvnode --version`` and a metric.
"""

__all__ = ["ETCD_VERSION", "program_version"]

ETCD_VERSION = "3.6.14"


def program_version() -> str:
    """Return kvcluster's own version."""
    # Imported here, as reading the installed metadata costs time that a start need not pay.
    from importlib.metadata import version

    return version("kvcluster")
