"""What the user wrote, and the sentence that is said when it can't be honoured."""

from typing import Any

import pytest
from kvoperator.model import names
from kvoperator.model.quantity import parse_duration_s, parse_quantity, same_quantity
from kvoperator.model.reading import SpecError
from kvoperator.model.snapshot import artifact_uri, parse_snapshot_spec, source_of_uri
from kvoperator.model.spec import parse_cluster_spec


@pytest.mark.parametrize(
    ("spec", "field", "bound"),
    [
        pytest.param({"replicas": 2}, "spec.replicas", "1, 3, 5 or 7", id="replicas"),
        pytest.param({"replicas": "3"}, "spec.replicas", "a whole number", id="replicas-text"),
        pytest.param({"storage": {"size": "0"}}, "spec.storage.size", "a quantity above 0", id="size"),
        pytest.param(
            {"config": {"electionTimeout": "400ms"}},
            "spec.config.electionTimeout",
            "at least 500ms",
            id="election",
        ),
        pytest.param(
            {"config": {"heartbeatInterval": "fast"}},
            "spec.config.heartbeatInterval",
            "a duration",
            id="duration",
        ),
        pytest.param(
            {"config": {"quotaBytes": "20Gi"}}, "spec.config.quotaBytes", "storage.size (10Gi)", id="quota"
        ),
        pytest.param({"tls": {"mode": "Auto"}}, "spec.tls.mode", "Disabled or Secret", id="tls-mode"),
        pytest.param({"tls": {"mode": "Secret"}}, "spec.tls.clientSecretName", "a secret", id="tls-secret"),
        pytest.param({"bootstrap": {"restore": {}}}, "spec.bootstrap.restore", "exactly one", id="restore"),
        pytest.param(
            {"podTemplate": {"labels": {"kvcluster.dev/role": "x"}}},
            "spec.podTemplate.labels",
            "outside the operator's own",
            id="reserved-label",
        ),
        pytest.param(
            {"resources": {"limits": {"memory": "much"}}},
            "spec.resources.limits.memory",
            "a quantity",
            id="resources",
        ),
        pytest.param({"repair": {"lostNodeTimeout": "1m"}}, "spec.repair.lostNodeTimeout", "5m", id="lost"),
        pytest.param({"paused": "yes"}, "spec.paused", "true or false", id="paused"),
        pytest.param({"antiAffinity": "Some"}, "spec.antiAffinity", "Preferred or Required", id="affinity"),
    ],
)
def test_a_mistake_names_field_value_and_bound(spec: dict[str, Any], field: str, bound: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_cluster_spec(spec)
    assert caught.value.field == field
    assert bound in str(caught.value)


def test_everything_has_a_default() -> None:
    spec = parse_cluster_spec({})
    assert (spec.replicas, spec.storage_size, spec.has_tls, spec.restore) == (3, "10Gi", False, None)


def test_the_operators_certificate_is_the_clients_unless_named() -> None:
    secrets = {"mode": "Secret", "clientSecretName": "a", "peerSecretName": "b"}
    default = parse_cluster_spec({"tls": secrets}).tls
    named = parse_cluster_spec({"tls": {**secrets, "operatorSecretName": "c"}}).tls
    assert default is not None
    assert named is not None
    assert (default.operator_secret, named.operator_secret) == ("a", "c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1Gi", 2**30),
        ("1.5G", 1_500_000_000),
        ("500m", 0.5),
        ("1e3", 1000),
        ("0", 0),
        (7, 7),
        ("2E", 2 * 10**18),
    ],
)
def test_quantities_are_numbers(text: str | int, expected: float) -> None:
    assert float(parse_quantity(text)) == expected


@pytest.mark.parametrize("text", ["", "Gi", "1GiB", "one", "1 Gi", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


def test_the_same_quantity_may_be_written_differently() -> None:
    assert same_quantity("1Gi", "1024Mi")
    assert same_quantity("1", 1)
    assert not same_quantity("1Gi", "1G")
    assert not same_quantity("a", "a")


@pytest.mark.parametrize(("text", "seconds"), [("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), ("0s", 0)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1d", "s", "1h 30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("name", "ordinal"),
    [
        ("demo-0", 0),
        ("demo-12", 12),
        ("data-demo-3", 3),
        ("demo-00", None),
        ("demo-x", None),
        ("demo", None),
        ("demo-1-2", None),
        ("data-demo2-1", None),
    ],
)
def test_an_ordinal_is_read_only_from_our_own_names(name: str, ordinal: int | None) -> None:
    assert names.ordinal_of("demo", name) == ordinal


@pytest.mark.parametrize(
    "target",
    [
        pytest.param({"pvc": {"claimName": "c", "path": "/a/b/"}}, id="pvc"),
        pytest.param({"s3": {"bucket": "b", "prefix": "p/", "region": "r"}}, id="s3"),
    ],
)
def test_an_artifact_is_found_again_by_its_uri(target: dict[str, Any]) -> None:
    spec = parse_snapshot_spec({"clusterRef": {"name": "demo"}, "target": target})
    artifact = spec.artifact("daily", "0123456789abcdef")
    assert source_of_uri(artifact_uri(artifact), target) == artifact


def test_two_snapshots_of_one_name_have_two_files() -> None:
    spec = parse_snapshot_spec({"clusterRef": {"name": "demo"}, "target": {"pvc": {"claimName": "c"}}})
    assert spec.artifact("daily", "aaaaaaaa-1") != spec.artifact("daily", "bbbbbbbb-1")


def test_a_uri_that_does_not_fit_its_target_is_refused() -> None:
    with pytest.raises(SpecError):
        source_of_uri("s3://b/k", {"pvc": {"claimName": "c"}})
    with pytest.raises(SpecError):
        source_of_uri("http://x/y", {"s3": {"bucket": "b"}})
