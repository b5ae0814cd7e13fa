"""The cluster's version and its downgrades, as replicated state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.apply.cluster_version import (
    CLUSTER_VERSION,
    ClusterVersion,
    MinorVersion,
    decode_downgrade,
    decode_version,
    encode_downgrade,
    encode_version,
    parse_minor_version,
)
from kvnode.apply.commands import CommandKind
from kvnode.apply.errors import CommandFormatError, DowngradeInProgressError, InvalidDowngradeTargetError
from kvtest.state_machine import StateMachine

BEFORE = CLUSTER_VERSION.previous


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("3.5", (3, 5), id="short"),
        pytest.param("3.5.27", (3, 5), id="patch-level-is-left-out"),
        pytest.param("3.5.0-rc.1+build.7", (3, 5), id="pre-release-and-build"),
        pytest.param("3", None, id="no-minor"),
        pytest.param("", None, id="nothing"),
        pytest.param("v3.5", None, id="letter"),
        pytest.param("3.5.0.0", None, id="four-parts"),
        pytest.param("3.5\n", None, id="line-end"),
        pytest.param("\u0663.\u0665", None, id="digits-of-other-scripts"),
        pytest.param("9" * 30 + ".1", None, id="more-than-64-bits"),
    ],
)
def test_versions_are_read_as_by_etcd(text, expected):
    assert parse_minor_version(text) == expected


@given(st.builds(MinorVersion, st.integers(0, 99), st.integers(0, 99)))
def test_payloads_are_read_back(version):
    assert decode_version(encode_version(version)) == version
    assert decode_downgrade(encode_downgrade(version)) == version
    assert decode_downgrade(encode_downgrade(None)) is None


@pytest.mark.parametrize("payload", [b"", b"{}", b"[1]", b"[1,2,3]", b'["a","b"]', b"\xff"])
def test_a_payload_that_is_no_version_stops_the_member(payload):
    with pytest.raises(CommandFormatError):
        decode_version(payload)


def test_a_downgrade_is_one_step_and_one_at_a_time_and_survives_a_restart():
    machine = StateMachine()
    for target in (CLUSTER_VERSION, BEFORE.previous, MinorVersion(2, BEFORE.minor)):
        with pytest.raises(InvalidDowngradeTargetError):
            machine.raw(CommandKind.DOWNGRADE, encode_downgrade(target))
    machine.raw(CommandKind.DOWNGRADE, encode_downgrade(BEFORE))
    with pytest.raises(DowngradeInProgressError):
        machine.raw(CommandKind.DOWNGRADE, encode_downgrade(BEFORE))
    machine.reopen()
    state = machine.applier.cluster_version
    assert (state.version, state.downgrade_target, state.due) == (CLUSTER_VERSION, BEFORE, BEFORE)

    machine.raw(CommandKind.CLUSTER_VERSION, encode_version(BEFORE))
    machine.raw(CommandKind.DOWNGRADE, encode_downgrade(None))
    machine.reopen()
    state = machine.applier.cluster_version
    assert (state.version, state.downgrade_target, state.due) == (BEFORE, None, CLUSTER_VERSION)


def test_a_new_cluster_has_the_programs_version():
    assert ClusterVersion.open(StateMachine().engine).version == CLUSTER_VERSION
