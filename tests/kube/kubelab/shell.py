"""Running commands: to their end, in a network namespace, or as a process that stays.

A process that stays is remembered by a file holding its pid and its start
time.  Both must match before a signal is sent, so a pid that the kernel gave to
a stranger since then is left alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from kubelab import layout

WAIT_S = 120.0
"""Time for one component to become ready; the slowest needs 10 s on two idle cores."""


class LabError(Exception):
    """A step of the lab failed; the text is all that the caller needs to see."""


def say(text: str) -> None:
    print(f"kube: {text}", file=sys.stderr, flush=True)


def run(
    *command: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, loud: bool = False
) -> str:
    """Run ``command`` to its end and return its output.

    Args:
        loud: Let the output through to the terminal instead of returning it.
    Raises:
        LabError: It ended with another code than 0; the text ends with what it wrote.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if loud else subprocess.PIPE,
        stderr=None if loud else subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"{' '.join(words)}: exit code {done.returncode}\n{(done.stdout or '')[-4000:]}")
    return (done.stdout or "").strip()


def succeeds(*command: object) -> bool:
    """Tell whether ``command`` ends with code 0; its output is dropped."""
    return (
        subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        == 0
    )


def wait(what: str, ready: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{what} not ready within {timeout_s:.0f} s; logs are in {layout.LOGS}")
        time.sleep(0.2)


def inside(netns: str) -> list[str]:
    """Return the prefix that puts a command into a network namespace, and into nothing else.

    ``ip netns exec`` also remounts /sys, which hides the cgroup mounts from a kubelet.
    """
    return ["nsenter", f"--net=/run/netns/{netns}"]


def start(
    name: str, *command: object, netns: str = layout.CONTROL_NETNS, env: Mapping[str, str] | None = None
) -> None:
    """Start a process that stays after this one has ended; its output goes to the log of its name."""
    with (layout.LOGS / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [*inside(netns), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PATH": f"{layout.BIN}:{os.environ['PATH']}", **(env or {})},
        )
    (layout.PIDS / f"{name}.pid").write_text(f"{child.pid} {_start_time(child.pid)}")


def stop(name: str) -> None:
    """Kill the process that was started under ``name`` with its whole group; do nothing if it is gone."""
    path = layout.PIDS / f"{name}.pid"
    if not path.exists():
        return
    pid, _, started = path.read_text().partition(" ")
    if started == _start_time(int(pid)):
        kill_group(int(pid))
    path.unlink()


def processes() -> list[dict[str, object]]:
    """Return what is known of each process that was started and not stopped."""
    found: list[dict[str, object]] = []
    for path in sorted(layout.PIDS.glob("*.pid")):
        pid, _, started = path.read_text().partition(" ")
        runs = started == _start_time(int(pid))
        log = layout.LOGS / f"{path.stem}.log"
        found.append({"name": path.stem, "pid": int(pid), "runs": runs, "log": str(log)})
    return found


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _start_time(pid: int) -> str | None:
    """Return a process's start time in clock ticks since boot (proc(5), field 22), None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]
