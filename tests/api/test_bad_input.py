"""Bad input to every method: exactly etcd's answer, and a member that goes on unharmed.

The expected answers are etcd's own, recorded; ``tests/compat`` asks a living etcd the same.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvnode.pb import rpc_pb2 as pb
from kvtest.bad_input import CASES, Case, outcome, prepare
from kvtest.processes import ClusterProcesses, MemberProcess

GOLDEN: dict[str, str] = json.loads((Path(__file__).parent / "golden" / "bad_input.json").read_text())


@pytest.fixture
def transport() -> None:
    """A process of its own has its own transport: not one run for each."""


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemberProcess]:
    with ClusterProcesses(tmp_path_factory.mktemp("member"), 1) as members:
        prepare(members[0].client_url.removeprefix("http://"))
        yield members[0]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bad_input_gets_etcds_answer_and_does_no_harm(member: MemberProcess, case: Case) -> None:
    target = member.client_url.removeprefix("http://")
    assert outcome(target, case) == GOLDEN[case.id]
    check = Case("check", "KV/Range", (pb.RangeRequest(key=b"a").SerializeToString(),))
    assert outcome(target, check) == "1 pairs, more: False"
    assert member.is_running


def test_every_recorded_answer_belongs_to_a_case() -> None:
    assert sorted(GOLDEN) == sorted(case.id for case in CASES)
