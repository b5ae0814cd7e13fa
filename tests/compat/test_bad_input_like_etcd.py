"""Bad input to every method, the same bytes to etcd and to kvnode: the same answers.

An etcd of 3.7 is asked if there is one (``etcd37`` in the lab's programs, or KVTEST_ETCD37), because its
API is what is served; else the lab's.
"""

from collections.abc import Iterator

import pytest
from kvtest.bad_input import ACCEPTED_BEFORE_3_7, CASES, DELIBERATE, SINCE_3_7, Case, outcome, prepare
from kvtest.processes import ClusterProcesses
from kvtest.programs import program

Targets = tuple[str, str]


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    """Addresses of etcd and of kvnode."""
    etcd = program("etcd37") or program("etcd")
    if etcd is None:
        pytest.skip("no etcd: `tests/kube/kube build` makes one, or KVTEST_ETCD names one")
    with (
        ClusterProcesses(tmp_path_factory.mktemp("etcd"), 1, command=[etcd]) as theirs,
        ClusterProcesses(tmp_path_factory.mktemp("kvnode"), 1) as ours,
    ):
        addresses = tuple(members[0].client_url.removeprefix("http://") for members in (theirs, ours))
        for address in addresses:
            prepare(address)
        yield addresses[0], addresses[1]


@pytest.fixture(scope="module")
def is_3_6(targets: Targets) -> bool:
    """Whether that etcd is older than RangeStream."""
    return "unknown method" in outcome(targets[0], next(c for c in CASES if c.method == "KV/RangeStream"))


COMPARED = [case for case in CASES if case.id not in DELIBERATE]


@pytest.mark.parametrize("case", COMPARED, ids=[case.id for case in COMPARED])
def test_bad_input_is_answered_as_by_etcd(targets: Targets, is_3_6: bool, case: Case) -> None:
    if is_3_6 and case.id in ACCEPTED_BEFORE_3_7:
        # Not asked: etcd would carry the name into what the other cases compare.
        assert outcome(targets[1], case).startswith("INTERNAL: grpc: error unmarshalling request")
        return
    theirs, ours = (outcome(target, case) for target in targets)
    if is_3_6 and (case.method == "KV/RangeStream" or case.id in SINCE_3_7):
        assert theirs != ours, "what 3.7 changed is in 3.6 already"
    else:
        assert ours == theirs
