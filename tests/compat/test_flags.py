"""The flags of kvnode beside those of etcd, as its help lists them."""

import json
import re
import subprocess
from collections.abc import Mapping

import pytest
from kvnode.cli.flags import FLAGS, Treatment, read_command_line
from kvtest.programs import program

#: Where our default is another one, and why.
OTHER_DEFAULTS: Mapping[str, str] = {
    "data-dir": "the suffix says whose data they are",
    "initial-cluster": "the help says what it is made of",
    "compaction-batch-limit": "a slice takes a millisecond, whatever else goes on",
    "compaction-sleep-interval": "shorter pauses after shorter slices",
    "max-concurrent-streams": "a number instead of its name in Go",
    "log-rotation-config-json": "the same, written as Python writes JSON",
}


@pytest.fixture(scope="module")
def of_etcd() -> dict[str, str]:
    """Flag -> default, as printed by ``etcd --help``."""
    etcd = program("etcd")
    if etcd is None:
        pytest.skip("no etcd: `tests/kube/kube build` makes one, or KVTEST_ETCD names one")
    done = subprocess.run([etcd, "--help"], capture_output=True, text=True, timeout=60, check=False)
    found = re.findall(r"^  --([a-z0-9-]+)(?: '?(.*?)'?)?$", done.stdout + done.stderr, re.MULTILINE)
    return dict(found)


def test_every_flag_of_etcds_is_known(of_etcd: dict[str, str]) -> None:
    assert len(of_etcd) > 120
    names = [name.removeprefix("experimental-") for name in of_etcd]
    assert [name for name in names if name not in FLAGS] == []
    effects = [FLAGS[name].treatment for name in dict.fromkeys(names)]
    print({treatment.value: effects.count(treatment) for treatment in Treatment})


def test_flags_that_do_something_have_etcds_defaults(of_etcd: dict[str, str]) -> None:
    used = {
        name: default
        for name, default in of_etcd.items()
        if name in FLAGS and FLAGS[name].treatment is Treatment.USED and default
    }
    assert len(used) > 50
    differing = {name for name, default in used.items() if FLAGS[name].default != default}
    assert differing <= set(OTHER_DEFAULTS)
    assert json.loads(FLAGS["log-rotation-config-json"].default) == json.loads(
        used["log-rotation-config-json"]
    )


def test_every_flag_of_etcds_may_be_given_with_its_default(of_etcd: dict[str, str]) -> None:
    """Written out on the command line, as some manifests do."""
    skipped = {"max-concurrent-streams", "data-dir", "config-file", "version"}
    line = [f"--{name}={default}" for name, default in of_etcd.items() if default and name not in skipped]
    read = read_command_line(line, {})
    assert read.ignored == []
    assert read.unknown_variables == []


def test_every_flag_of_etcds_is_a_variable_too(of_etcd: dict[str, str]) -> None:
    variables = {f"ETCD_{name.upper().replace('-', '_')}": "" for name in of_etcd}
    assert read_command_line((), variables).unknown_variables == []
