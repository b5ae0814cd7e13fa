"""The command as a process: what it prints, logs and exits with."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import kvnode
from kvnode.api.version import ETCD_VERSION
from kvnode.cli.deadline import EXIT_WITHIN_S
from kvnode.server.errors import ExitCode


def kvnode_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
    path = str(Path(kvnode.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "kvnode", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=own | {"PYTHONPATH": path} | environment,
    )


def test_the_version_has_the_form_of_etcds() -> None:
    done = kvnode_command("--version")
    assert done.returncode == 0
    fields = dict(line.split(": ") for line in done.stdout.splitlines())
    assert list(fields) == ["etcd Version", "kvnode Version", "Python Version", "Python OS/Arch", "Compiled"]
    assert fields["etcd Version"] == ETCD_VERSION
    assert fields["Python OS/Arch"].startswith("linux/")
    assert done.stderr == ""


def test_a_wrong_flag_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    log = tmp_path / "termination"
    done = kvnode_command("--nmae=x", KVNODE_TERMINATION_LOG=str(log))
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr == "kvnode: unknown flag --nmae; did you mean --name?\n"
    assert log.read_text() == "unknown flag --nmae; did you mean --name?\n"


def test_clients_wait_instead_of_being_refused_while_a_member_is_still_being_imported(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"""
import os, socket, sys
from kvnode.cli import main

class Caller:
    def find_spec(self, name, path, target=None):
        if name == "kvnode.cli.node":
            socket.create_connection(("127.0.0.1", {port})).close()
            print("connected", flush=True)
            os._exit(0)

sys.meta_path.insert(0, Caller())
sys.exit(main(["--data-dir={tmp_path}", "--listen-client-urls=http://127.0.0.1:{port}",
               "--advertise-client-urls=http://127.0.0.1:{port}"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "connected\n", done.stderr


def test_a_port_in_use_is_status_14_in_the_log_too_and_touches_no_data(tmp_path: Path) -> None:
    log = tmp_path / "termination"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = kvnode_command(
            f"--data-dir={tmp_path / 'data'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--max-wals=1",
            "--feature-gates=PriorityRequest=true",
            KVNODE_TERMINATION_LOG=str(log),
            ETCD_UNKNOWN="x",
        )
    sentence = f"cannot listen on {url}: address already in use (--listen-client-urls)"
    assert done.returncode == ExitCode.ADDRESS_IN_USE
    lines = done.stderr.splitlines()
    assert lines[-1] == f"kvnode: {sentence}"
    assert log.read_text() == sentence + "\n"
    records = [json.loads(line) for line in lines[:-1]]
    assert [(each["level"], each["msg"]) for each in records] == [
        ("info", "starting kvnode"),
        ("warn", "flags of etcd without a meaning here are ignored"),
        ("warn", "feature gates without a meaning here are ignored"),
        ("warn", "environment variables that name no flag are ignored"),
        ("fatal", sentence),
    ]
    assert records[1]["flags"] == ["--max-wals"]
    assert records[2]["gates"] == ["PriorityRequest=true"]
    assert records[3]["variables"] == ["ETCD_UNKNOWN"]
    assert records[4]["exit_code"] == 14
    assert not (tmp_path / "data").exists()


def test_an_end_that_hangs_is_cut_off_in_time() -> None:
    """Whatever the main thread does, also where it never looks at the clock."""
    code = (
        "from kvnode.cli.deadline import ExitDeadline\n"
        "deadline = ExitDeadline()\n"
        "deadline.begin()\n"
        "deadline.begin()\n"
        "while True: pass\n"
    )
    begun_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(kvnode.__file__).parent.parent)},
    )
    assert done.returncode == ExitCode.OK
    assert EXIT_WITHIN_S <= time.monotonic() - begun_s < EXIT_WITHIN_S + 2.0


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "kvnode.log"
    done = kvnode_command(f"--data-dir={tmp_path / 'data'}", f"--log-outputs=stderr,{path}")
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr == (
        f"kvnode: cannot write the log file {path}: No such file or directory (--log-outputs)\n"
    )


def test_a_configuration_file_that_cannot_be_read_is_named() -> None:
    done = kvnode_command(ETCD_CONFIG_FILE="/nowhere")
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr == "kvnode: cannot read the configuration file /nowhere: No such file or directory\n"
