"""Is what clients saw linearizable?  Decided from their calls and answers alone, key by key.

The search is that of Wing and Gong with Lowe's memory of visited configurations: take any call that began
before every call still open has ended, see whether the register allows it, go on, and come back when stuck.
A key is a register of its own, since linearizability is local (Herlihy and Wing, theorem 1).

Every value is written by one call only.  That keeps the search short where nobody knows what became of a
call: such a write is tried only where another call needs its value.  This loses nothing: a write that may
have happened at any later time may as well have happened just before the first call that it made a
difference to.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

__all__ = ["ClientHistory", "Op", "linearization", "write_of"]

#: Configurations visited for one key before giving up; a right history needs about one for each call.
LIMIT: Final = 10_000

#: What a register holds: a value, or None where there is no key.
Value = bytes | None


@dataclass(eq=False, slots=True)
class Op:
    """One call on one key."""

    kind: str
    """``read``, ``write`` (a deletion writes None), ``swap`` (write if the register holds ``expected``)."""
    called: int
    value: Value = None
    """Read or to be written."""
    expected: Value = None
    """Of a swap."""
    returned: float = math.inf
    """Infinite: nobody knows what became of it."""
    swapped: bool | None = None
    """What a swap that has returned says it did."""
    hint: int = 0
    """The revision that it made or read, as far as known: only says where the search begins."""

    @property
    def is_known(self) -> bool:
        """Whether its caller has an answer."""
        return self.returned != math.inf


def write_of(key_value: Value, called: int) -> Op:
    """Return a write that is under way."""
    return Op("write", called, key_value)


class ClientHistory:
    """Calls of all clients, by key, in the order they were made."""

    def __init__(self) -> None:
        self.ops: dict[bytes, list[Op]] = {}
        self._moment = 0

    def begin(self, key: bytes, kind: str, value: Value = None, expected: Value = None) -> Op:
        """A client calls."""
        self._moment += 1
        op = Op(kind, self._moment, value, expected)
        self.ops.setdefault(key, []).append(op)
        return op

    def end(self, op: Op) -> None:
        """The client has its answer, which the caller has put into ``op``."""
        self._moment += 1
        op.returned = self._moment

    def drop(self, key: bytes, op: Op) -> None:
        """It certainly had no effect, and says nothing."""
        self.ops[key].remove(op)

    def __len__(self) -> int:
        return sum(map(len, self.ops.values()))


def linearization(ops: Sequence[Op], limit: int = LIMIT) -> list[Op] | None:
    """Return an order of calls that explains a key's history, or None if there is none.

    Raises:
        TimeoutError: ``limit`` was reached before either was found.
    """
    known = sorted((op for op in ops if op.is_known), key=lambda op: (op.called, op.returned))
    # A read without an answer tells nothing.
    unknown = sorted((op for op in ops if not op.is_known and op.kind != "read"), key=lambda op: op.called)
    search = _Search(known, unknown)
    goal = (1 << len(known)) - 1
    visited: set[tuple[int, Value]] = set()
    done = 0
    state: Value = None
    path: list[tuple[Op, Value]] = []
    stack = [search.candidates(done, state)]
    while stack:
        if done & goal == goal:
            return [op for op, _ in path]
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            if path:
                op, state = path.pop()
                done &= ~search.bits[op]
            continue
        op, after = step
        configuration = (done | search.bits[op], after)
        if configuration in visited:
            continue
        if len(visited) >= limit:
            raise TimeoutError(f"undecided after {limit} configurations of {len(ops)} calls")
        visited.add(configuration)
        path.append((op, state))
        done, state = configuration
        stack.append(search.candidates(done, state))
    return None


class _Search:
    """The calls on one key, and which of them may come next."""

    def __init__(self, known: Sequence[Op], unknown: Sequence[Op]) -> None:
        self._known = known
        seen = {op.value for op in known if op.kind == "read"}
        seen.update(op.expected for op in (*known, *unknown) if op.kind == "swap")
        self._unknown = [op for op in unknown if op.value in seen or op.kind == "swap"]
        #: Writes that nobody can have seen: of those one is as good as another.
        self._unseen = [op for op in unknown if op.value not in seen and op.kind == "write"]
        #: Those with an answer come first, by when they were called.
        self.bits = {op: 1 << number for number, op in enumerate((*known, *unknown))}

    def candidates(self, done: int, state: Value) -> Iterator[tuple[Op, Value]]:
        """Yield the calls that may come next, each with what the register holds then; the likeliest first."""
        open_ops: list[Op] = []
        first_return = math.inf
        bits = self.bits
        for number in range((~done & (done + 1)).bit_length() - 1, len(self._known)):
            op = self._known[number]
            if op.called > first_return:
                break
            if not done & bits[op]:
                open_ops.append(op)
                first_return = min(first_return, op.returned)
        for op in open_ops:
            if op.kind == "read" or not op.swapped:
                is_allowed, after = _apply(op, state)
                if is_allowed and after == state and op.kind != "write":
                    # It changes nothing, so that nothing is lost by taking it now.
                    yield op, state
                    return
        unknown = [op for op in self._unknown if op.called <= first_return and not done & bits[op]]
        unseen = (op for op in self._unseen if op.called <= first_return and not done & bits[op])
        unknown += islice(unseen, 1)
        open_ops.sort(key=lambda op: op.hint)
        # What unknown swaps could go on from.
        steps = {op.expected for op in unknown if op.kind == "swap"}
        helpers = [op for op in unknown if op.kind == "write" or op.expected == state]
        tried: set[Op] = set()
        for op in open_ops:
            is_allowed, after = _apply(op, state)
            if is_allowed:
                yield op, after
                continue
            useful = [each for each in helpers if each not in tried and _helps(each, op, steps)]
            for helper in sorted(useful, key=lambda other: _distance(other, op)):
                tried.add(helper)
                yield helper, helper.value


def _distance(op: Op, stuck: Op) -> float:
    """Order calls of unknown outcome by how likely they came just before ``stuck``."""
    return stuck.hint - op.hint if 0 < op.hint <= stuck.hint else math.inf


def _helps(op: Op, stuck: Op, steps: set[Value]) -> bool:
    """Whether a call of unknown outcome, or what it allows another one to do, could let ``stuck`` happen."""
    if stuck.kind == "swap" and not stuck.swapped:
        return True  # anything else in the register will do
    wanted = stuck.value if stuck.kind == "read" else stuck.expected
    return op.value == wanted or op.value in steps


def _apply(op: Op, state: Value) -> tuple[bool, Value]:
    """Return whether a call may have had its answer in ``state``, and what the register holds then."""
    if op.kind == "read":
        return op.value == state, state
    if op.kind == "write":
        return True, op.value
    if op.swapped:
        return op.expected == state, op.value
    return op.expected != state, state
