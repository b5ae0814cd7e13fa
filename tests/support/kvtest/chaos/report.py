"""What a run comes to: a table, and a picture of the load under the faults."""

import bisect
import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from kvtest.chaos.history import Fault, History
from kvtest.chaos.run import Outcome

__all__ = ["plot", "recovery_s", "table"]

_WINDOW_S = 1.0


def recovery_s(history: History) -> dict[str, list[float]]:
    """By kind of fault, the time until the next write was acknowledged that began after it.

    After the fault itself, or after it began to be healed where it left no quorum.
    """
    writes = sorted(
        (call.called_ns, call.returned_ns)
        for call in history.calls
        if call.outcome == "ok" and call.has_changed
    )
    called = [each for each, _ in writes]
    #: From each write on, when the first of them was answered.
    first_answers = [math.inf] * (len(writes) + 1)
    for number in range(len(writes) - 1, -1, -1):
        first_answers[number] = min(first_answers[number + 1], writes[number][1])
    found: dict[str, list[float]] = defaultdict(list)
    for fault in history.faults:
        if fault.is_upkeep:
            continue
        since_ns = fault.healed_ns if fault.takes_quorum else fault.began_ns
        answered_ns = first_answers[bisect.bisect_left(called, since_ns)]
        found[fault.kind].append((answered_ns - since_ns) / 1e9)
    return found


def longest_silence_s(history: History) -> dict[str, list[float]]:
    """By kind of fault, the longest time without an acknowledged write until all served again."""
    answered = sorted(call.returned_ns for call in history.calls if call.outcome == "ok" and call.has_changed)
    found: dict[str, list[float]] = defaultdict(list)
    for fault in history.faults:
        if fault.is_upkeep or not answered:
            continue
        first = max(bisect.bisect_left(answered, fault.began_ns) - 1, 0)
        last = bisect.bisect_right(answered, fault.ended_ns)
        gaps = itertools.pairwise(answered[first : last + 1])
        found[fault.kind].append(max((after - before for before, after in gaps), default=0) / 1e9)
    return found


def table(outcome: Outcome) -> str:
    """Return everything as Markdown."""
    history = outcome.history
    settings = outcome.settings
    lines = [
        f"{settings.members} members, {settings.minutes:g} minutes, seed {settings.seed}.",
        f"Delays: {outcome.delay or 'left out, this kernel has nothing for them'}.",
        f"Wall clocks: {'set by a preloaded library' if outcome.has_clock else 'left out, no C compiler'}.",
        "",
        "| calls | ok | failed for certain | unknown |",
        "|---|---|---|---|",
    ]
    kinds = Counter((call.kind, call.outcome) for call in history.calls)
    for kind in sorted({call.kind for call in history.calls}):
        counts = [f"{kinds[kind, result]:,}" for result in ("ok", "failed", "unknown")]
        lines.append(f"| {kind} | {' | '.join(counts)} |")
    totals = Counter(call.outcome for call in history.calls)
    lines.append(f"| all | {' | '.join(f'{totals[each]:,}' for each in ('ok', 'failed', 'unknown'))} |")
    lines += [
        "",
        "| fault | times | next write acknowledged after, median | worst | longest time without one |",
        "|---|---|---|---|---|",
    ]
    silences = longest_silence_s(history)
    for kind, times in sorted(recovery_s(history).items()):
        figures = (statistics.median(times), max(times), max(silences[kind]))
        lines.append(f"| {kind} | {len(times)} | {' | '.join(f'{each:.2f} s' for each in figures)} |")
    upkeep = Counter(fault.kind for fault in history.faults if fault.is_upkeep)
    lines += [
        "",
        "| beside them | times |",
        "|---|---|",
        *(f"| {k} | {n} |" for k, n in sorted(upkeep.items())),
    ]
    lines += ["", "| checked | violations |", "|---|---|"]
    lines += [f"| {check} | {len(problems)} |" for check, problems in outcome.problems.items()]
    lines += ["", *(f"{what}: {count:,}" for what, count in outcome.counts.items())]
    if outcome.violations:
        lines += ["", f"VIOLATIONS (seed {settings.seed}):", *outcome.violations]
    return "\n".join(lines) + "\n"


def plot(history: History, file: Path) -> None:
    """Draw throughput and latency over time, faults as shaded spans."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "chaos"
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, not as outlines
    from matplotlib import pyplot

    began_ns = history.began_ns
    buckets: dict[int, list[float]] = defaultdict(list)
    for call in history.calls:
        if call.outcome == "ok":
            second = int((call.returned_ns - began_ns) / 1e9 / _WINDOW_S)
            buckets[second].append((call.returned_ns - call.called_ns) / 1e6)
    seconds = range(max(buckets, default=0) + 1)
    times = [second * _WINDOW_S for second in seconds]
    rates = [len(buckets[second]) / _WINDOW_S for second in seconds]
    tails = [_percentile(buckets[second]) for second in seconds]
    rows = math.ceil(len(times) * _WINDOW_S / 150)
    figure, grid = pyplot.subplots(2 * rows, 1, figsize=(16, 4.6 * rows), squeeze=False, layout="constrained")
    for row in range(rows):
        first, last = row * len(times) / rows, (row + 1) * len(times) / rows
        throughput, latency = grid[2 * row][0], grid[2 * row + 1][0]
        throughput.plot(times, rates, color="tab:blue", linewidth=1)
        throughput.set_ylabel("acknowledged calls/s")
        throughput.set_ylim(bottom=0)
        latency.plot(times, tails, color="tab:orange", linewidth=1)
        latency.set_ylabel("p99, ms")
        latency.set_yscale("log")
        latency.set_xlabel("seconds")
        for axis in (throughput, latency):
            axis.set_xlim(first, last)
            axis.grid(alpha=0.3)
        _shade(history.faults, began_ns, (throughput, latency), first, last)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _shade(
    faults: Sequence[Fault],
    began_ns: int,
    axes: Sequence[object],
    first_s: float,
    last_s: float,
) -> None:
    """Red while it lasts, grey until all members serve again; upkeep as green lines."""
    throughput, latency = axes
    for fault in faults:
        marks = [(each - began_ns) / 1e9 for each in (fault.began_ns, fault.healed_ns, fault.ended_ns)]
        begin, healed, end = marks[0], marks[1], max(marks)
        if not first_s <= begin < last_s:
            continue
        if fault.is_upkeep:
            latency.axvline(begin, color="tab:green", alpha=0.5, linewidth=1)  # type: ignore[attr-defined]
            continue
        for axis in (throughput, latency):
            axis.axvspan(begin, max(healed, begin + 0.2), color="tab:red", alpha=0.25, linewidth=0)  # type: ignore[attr-defined]
            axis.axvspan(max(healed, begin + 0.2), end, color="grey", alpha=0.15, linewidth=0)  # type: ignore[attr-defined]
        throughput.text(  # type: ignore[attr-defined]
            begin, 0.02, fault.kind, rotation=90, fontsize=7, va="bottom",
            transform=throughput.get_xaxis_transform(),  # type: ignore[attr-defined]
        )  # fmt: skip


def _percentile(latencies: list[float]) -> float:
    if not latencies:
        return math.nan
    return sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * 0.99))]
