"""How a Python program here is told what to check, and says what it found.

The first line of input names the members; the arguments name the checks, in order ("list" prints
the names of all).  The answer to each is a line ``PASS name`` or ``FAIL name: why``.  What only the
one who runs the members can do is asked for by a line ``ASK {...}``, answered by a line of input.
"""

import asyncio
import inspect
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["ask", "check", "equal", "eventually", "eventually_async", "holds", "key_of", "main", "refused"]

CHECK_TIMEOUT_S = 60

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_checks: dict[str, Callable[..., Any]] = {}
_name = ""


def check(name: str) -> Callable[[FunctionT], FunctionT]:
    """Register a check, which is called with what the members' runner has said of them."""

    def register(function: FunctionT) -> FunctionT:
        _checks[name] = function
        return function

    return register


def key_of(suffix: str = "") -> bytes:
    """A key that no other check uses; so is everything that begins with ``key_of()``."""
    return f"{_name}/{suffix}".encode()


def ask(what: str) -> Any:
    """Have something done to the members."""
    print(f"ASK {json.dumps({'do': what})}", flush=True)
    reply = json.loads(sys.stdin.readline())
    if "error" in reply:
        raise AssertionError(f"{what}: {reply['error']}")
    return reply["answer"]


def holds(what: str, claim: object) -> None:
    if not claim:
        raise AssertionError(f"not so: {what}")


def equal(what: str, got: object, want: object) -> None:
    if got != want:
        raise AssertionError(f"{what}: {got!r}, not {want!r}")


def refused(what: str, kind: type[Exception], action: Callable[[], object]) -> Any:
    """The error that ``action`` raises, which must be of this kind."""
    try:
        result = action()
    except kind as error:
        return error
    raise AssertionError(f"{what}: not refused, but {result!r}")


def eventually(what: str, claim: Callable[[], object]) -> None:
    """Wait until ``claim()`` holds; the check's own time is the limit."""
    while not claim():
        time.sleep(0.05)


async def eventually_async(what: str, claim: Callable[[], Any]) -> None:
    """Likewise, of a coroutine function."""
    while not await claim():
        await asyncio.sleep(0.05)


def main() -> None:
    """Run what the arguments name."""
    if sys.argv[1:] == ["list"]:
        print("\n".join(_checks))
        return
    members = json.loads(sys.stdin.readline())
    signal.signal(signal.SIGALRM, _time_is_up)
    for name in sys.argv[1:] or list(_checks):
        why = _run(name, members)
        print(f"FAIL {name}: {why}" if why else f"PASS {name}", flush=True)


def _time_is_up(number: int, frame: object) -> None:
    raise TimeoutError(f"not done within {CHECK_TIMEOUT_S} s")


def _run(name: str, members: dict[str, Any]) -> str:
    global _name
    _name = name
    function = _checks[name]
    signal.alarm(CHECK_TIMEOUT_S)
    try:
        if inspect.iscoroutinefunction(function):
            asyncio.run(function(members))
        else:
            function(members)
    except Exception as error:
        line = next(
            (f"{Path(frame.filename).name}:{frame.lineno}: "
             for frame in reversed(traceback.extract_tb(error.__traceback__))
             if Path(frame.filename).parent == Path(__file__).parent and frame.filename != __file__),
            "",
        )  # fmt: skip
        said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        detail = getattr(error, "detail_text", None)
        return " | ".join(f"{line}{said}{f' ({detail})' if detail else ''}".splitlines())
    finally:
        signal.alarm(0)
    return ""
