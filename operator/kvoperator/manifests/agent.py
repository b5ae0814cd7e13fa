"""What the snapshot agent's containers need: where the file is, credentials, certificates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kvoperator.manifests.metadata import Manifest
from kvoperator.manifests.security import container_security
from kvoperator.model.spec import PvcSource, S3Location, S3Source, TlsSpec

__all__ = ["CLIENT_TLS_MOUNT", "AgentStorage", "agent_container", "client_tls_volume", "storage_of"]

_SOURCE_MOUNT: Final = "/snapshots"
_SOURCE_VOLUME: Final = "snapshots"
CLIENT_TLS_MOUNT: Final = "/etc/kvcluster/operator-tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStorage:
    """Arguments, environment, mounts and volumes by which the agent reaches one place."""

    location: str
    """``file:///snapshots/...`` or ``s3://bucket/key``."""
    args: tuple[str, ...] = ()
    env: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()
    volumes: tuple[Manifest, ...] = ()


def storage_of(source: PvcSource | S3Source, *, is_read_only: bool) -> AgentStorage:
    if isinstance(source, PvcSource):
        return AgentStorage(
            location=f"file://{_SOURCE_MOUNT}/{source.path}",
            mounts=({"name": _SOURCE_VOLUME, "mountPath": _SOURCE_MOUNT, "readOnly": is_read_only},),
            volumes=(
                {
                    "name": _SOURCE_VOLUME,
                    "persistentVolumeClaim": {"claimName": source.claim_name, "readOnly": is_read_only},
                },
            ),
        )
    return AgentStorage(
        location=f"s3://{source.location.bucket}/{source.key}",
        args=_s3_args(source.location),
        env=_s3_env(source.location),
    )


def _s3_args(location: S3Location) -> tuple[str, ...]:
    args = [f"--s3-addressing-style={location.addressing_style.lower()}"]
    if location.endpoint:
        args.append(f"--s3-endpoint={location.endpoint}")
    if location.region:
        args.append(f"--s3-region={location.region}")
    return tuple(args)


def _s3_env(location: S3Location) -> tuple[Manifest, ...]:
    if location.credentials_secret is None:
        return ()
    reference = {"name": location.credentials_secret}
    found: list[Manifest] = [
        {"name": key, "valueFrom": {"secretKeyRef": {**reference, "key": key}}}
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]
    token = {**reference, "key": "AWS_SESSION_TOKEN", "optional": True}
    found.append({"name": "AWS_SESSION_TOKEN", "valueFrom": {"secretKeyRef": token}})
    return tuple(found)


def client_tls_volume(tls: TlsSpec) -> Manifest:
    return {"name": "operator-tls", "secret": {"secretName": tls.operator_secret, "defaultMode": 0o440}}


def agent_container(
    *,
    name: str,
    image: str,
    command: str,
    args: Sequence[str],
    env: Sequence[Manifest] = (),
    mounts: Sequence[Manifest] = (),
    pull_policy: str | None = None,
) -> Manifest:
    container: Manifest = {
        "name": name,
        "image": image,
        "command": ["kvoperator", "agent", command],
        "args": list(args),
        "securityContext": container_security(),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [*mounts, {"name": "tmp", "mountPath": "/tmp"}],
    }
    if env:
        container["env"] = list(env)
    if pull_policy:
        container["imagePullPolicy"] = pull_policy
    return container
