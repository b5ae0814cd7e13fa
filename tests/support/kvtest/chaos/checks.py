"""Checks of a history; each returns what is wrong, in sentences.

The store numbers its changes, so nearly everything follows from one list: what was changed at each
revision, as those watches saw it that watch everything.  `Reference` is that list.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kvtest.chaos.history import Call, Change, Hold, LeaseLife, WatchLog

__all__ = [
    "FENCE_KEY",
    "Reference",
    "check_acknowledged",
    "check_at_most_once",
    "check_fence",
    "check_holds",
    "check_leases",
    "check_order",
    "check_watch",
]

#: Whoever holds the lock writes here, with its place in the queue before a colon.
FENCE_KEY = "lock-fence/0"


class Reference:
    """The changes at each revision; what the watches of everything disagree on is in ``problems``."""

    def __init__(self, watches: Iterable[WatchLog]) -> None:
        self.changes: dict[int, list[Change]] = {}
        self.problems: list[str] = []
        self.first_revision = 0
        """The first revision that some watch was there for."""
        for watch in watches:
            if not watch.first_key and not watch.end_key:
                self._take(watch)
        revisions = sorted(self.changes)
        self.last_revision = revisions[-1] if revisions else 0
        for before, after in itertools.pairwise(revisions):
            if after != before + 1:
                self.problems.append(f"no watch was told of the revisions {before + 1} to {after - 1}")

    def _take(self, watch: WatchLog) -> None:
        self.first_revision = min(self.first_revision or watch.start_revision, watch.start_revision)
        own: dict[int, list[Change]] = {}
        for _, events in watch.batches:
            for revision, change in events:
                own.setdefault(revision, []).append(change)
        for revision, changes in own.items():
            known = self.changes.setdefault(revision, changes)
            if known != changes:
                self.problems.append(f"{watch.name} was told at {revision} of {changes}, another of {known}")

    def state(self, revision: int) -> dict[str, str]:
        """What the store holds at ``revision``, if it was empty at the beginning."""
        pairs: dict[str, str] = {}
        for each in sorted(self.changes):
            if each > revision:
                break
            for change in self.changes[each]:
                if change.value is None:
                    pairs.pop(change.key, None)
                else:
                    pairs[change.key] = change.value
        return pairs

    def matching(self, watch: WatchLog, first: int, last: int) -> list[tuple[int, Change]]:
        """The changes that ``watch`` is for, between two revisions."""
        return [
            (revision, change)
            for revision in range(first, last + 1)
            for change in self.changes.get(revision, ())
            if watch.concerns(change.key)
        ]


def check_watch(watch: WatchLog, reference: Reference) -> list[str]:
    """Ordered, unique, each revision whole and in one piece, none missing up to the last one told."""
    problems: list[str] = []
    next_revision = watch.start_revision
    gaps = sorted(watch.gaps)
    told: list[tuple[int, Change]] = []
    bookmarks = iter(watch.bookmarks)
    bookmark = next(bookmarks, None)
    for number, (_, events) in enumerate(watch.batches):
        while bookmark is not None and bookmark[0] <= number:
            next_revision = max(next_revision, bookmark[1] + 1)
            bookmark = next(bookmarks, None)
        revisions = [revision for revision, _ in events]
        if revisions != sorted(revisions):
            problems.append(f"{watch.name} was told of revisions out of order: {revisions}")
        if revisions and revisions[0] < next_revision:
            problems.append(
                f"{watch.name} was told of {revisions[0]} when it knew all before {next_revision}"
            )
        next_revision = max(next_revision, *(revision + 1 for revision in revisions))
        told += events
    last = max(watch.known_revision, next_revision - 1)
    expected = [
        each
        for each in reference.matching(watch, watch.start_revision, last)
        if not any(first <= each[0] <= end for first, end in gaps)
    ]
    if told != expected:
        problems += _differences(watch.name, told, expected)
    return problems


def _differences(
    name: str, told: Sequence[tuple[int, Change]], expected: Sequence[tuple[int, Change]]
) -> list[str]:
    missing = Counter(expected) - Counter(told)
    surplus = Counter(told) - Counter(expected)
    if not missing and not surplus:
        return [f"{name} was told of all events, but in another order"]
    return [
        *(f"{name} was never told of {each}" for each in itertools.islice(missing, 5)),
        *(f"{name} was told of {each}, which did not happen so" for each in itertools.islice(surplus, 5)),
    ]


def check_acknowledged(calls: Iterable[Call], reference: Reference) -> list[str]:
    """Every acknowledged write is in the history, at its revision, with all that it did and nothing else."""
    problems = []
    for call in calls:
        if not call.has_changed or call.revision < reference.first_revision:
            continue
        expected = [
            Change(call.key(each.key), each.value if each.kind == "put" else None)
            for each, result in zip(call.done, call.results, strict=True)
            if each.kind == "put" or (each.kind == "delete" and result.deleted)
        ]
        found = reference.changes.get(call.revision)
        if found != expected:
            problems.append(
                f"the {call.kind} of client {call.client} was acknowledged at {call.revision} as {expected}; "
                f"there is {found}"
            )
    return problems


def check_at_most_once(calls: Iterable[Call], reference: Reference) -> list[str]:
    """No value was written twice, none that a client was told is not written, none by nobody."""
    counts = Counter(
        (change.key, change.value)
        for changes in reference.changes.values()
        for change in changes
        if change.value is not None
    )
    problems = [f"{pair} was written {count} times" for pair, count in counts.items() if count > 1]
    known = set()
    for call in calls:
        for each in (*call.then, *call.otherwise):
            if each.kind != "put":
                continue
            pair = (call.key(each.key), each.value)
            known.add(pair)
            is_done = call.outcome == "ok" and each in call.done
            if counts[pair] and call.outcome != "unknown" and not is_done:
                problems.append(f"{pair} was written, though its client was told: {call.error or 'not done'}")
    groups = {call.group for call in calls}
    problems += [
        f"nobody wrote {pair}"
        for pair in counts
        if pair not in known and pair[0].rpartition("/")[0] in groups
    ]
    return problems


def check_order(calls: Iterable[Call]) -> list[str]:
    """What began after another call had its answer is at no earlier revision, whatever their keys."""
    answered = [call for call in calls if call.outcome == "ok"]
    by_return = iter(sorted(answered, key=lambda call: call.returned_ns))
    latest: Call | None = None
    pending = next(by_return, None)
    problems = []
    for call in sorted(answered, key=lambda call: call.called_ns):
        while pending is not None and pending.returned_ns < call.called_ns:
            if latest is None or pending.revision > latest.revision:
                latest = pending
            pending = next(by_return, None)
        if latest is None:
            continue
        if call.revision < latest.revision + call.has_changed:
            problems.append(
                f"the {call.kind} of client {call.client} is at revision {call.revision}, although the "
                f"{latest.kind} of client {latest.client} at {latest.revision} was over before it began"
            )
    made = Counter(call.revision for call in answered if call.has_changed)
    problems += [f"{count} writes were acknowledged at {each}" for each, count in made.items() if count > 1]
    return problems


def check_leases(leases: Iterable[LeaseLife], watches: Iterable[WatchLog]) -> list[str]:
    """No key went, and no holder was told that its lease is gone, before its time was up."""
    gone: dict[str, int] = {}
    for watch in watches:
        for arrived_ns, events in watch.batches:
            for _, change in events:
                if change.value is None:
                    gone[change.key] = min(gone.get(change.key, arrived_ns), arrived_ns)
    problems = []
    for lease in leases:
        for what, at_ns in (
            ("its key went", gone.get(lease.key, 0)),
            ("its holder was told", lease.told_lost_ns),
        ):
            if not at_ns or (lease.revoked_ns and lease.revoked_ns <= at_ns):
                continue
            early_s = (lease.alive_until_ns(at_ns) - at_ns) / 1e9
            if early_s > 0:
                problems.append(
                    f"lease {lease.lease_id:x} of {lease.key} ended {early_s:.3f} s early: {what}"
                )
    return problems


def check_holds(holds: Sequence[Hold]) -> list[str]:
    """No two clients had the lock at the same time."""
    problems = []
    ordered = sorted(
        (hold for hold in holds if hold.safe_until_ns > hold.locked_ns), key=lambda h: h.locked_ns
    )
    longest: Hold | None = None
    for hold in ordered:
        if longest is not None and hold.locked_ns < longest.safe_until_ns:
            problems.append(
                f"client {hold.client} got the lock while client {longest.client} had it for "
                f"{(longest.safe_until_ns - hold.locked_ns) / 1e9:.3f} s more"
            )
        if longest is None or hold.safe_until_ns > longest.safe_until_ns:
            longest = hold
    return problems


def check_fence(changes: Mapping[int, Sequence[Change]]) -> list[str]:
    """Nobody writes what the lock guards once somebody behind him in the queue has written it."""
    problems = []
    latest = 0
    for revision in sorted(changes):
        for change in changes[revision]:
            if change.key != FENCE_KEY or change.value is None:
                continue
            match = re.match(r"(\d+):", change.value)
            place = int(match.group(1)) if match else 0
            if place < latest:
                problems.append(
                    f"at {revision} the holder of place {place} wrote after that of place {latest}"
                )
            latest = max(latest, place)
    return problems
