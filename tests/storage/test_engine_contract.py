"""What every engine must do, run against the one in memory and the one on disk."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kvnode.storage.engine import Engine, ReadView
from kvnode.storage.errors import StorageClosedError

Pairs = list[tuple[bytes, bytes]]


def write(engine: Engine, *pairs: tuple[bytes, bytes | None], sync: bool = False) -> None:
    batch = engine.batch()
    for key, value in pairs:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    engine.write(batch, sync=sync)


def fill(engine: Engine, keys: str) -> None:
    write(engine, *((key.encode(), key.encode() * 2) for key in keys))


def keys_of(view: ReadView, start: bytes | None, stop: bytes | None, *, reverse: bool = False) -> str:
    return b"".join(key for key, _ in view.iterate(start, stop, reverse=reverse)).decode()


def test_a_missing_key_is_none_and_an_empty_value_is_not(engine: Engine) -> None:
    write(engine, (b"empty", b""))
    assert engine.get(b"missing") is None
    assert engine.get(b"empty") == b""


def test_what_is_written_is_read(engine: Engine) -> None:
    write(engine, (b"k", b"v"), (bytes(range(256)), b"\0" * 70_000))
    assert engine.get(b"k") == b"v"
    assert engine.get(bytes(range(256))) == b"\0" * 70_000


def test_the_last_operation_on_a_key_in_a_batch_wins(engine: Engine) -> None:
    write(engine, (b"a", b"1"), (b"a", None), (b"b", None), (b"b", b"2"))
    assert list(engine.iterate()) == [(b"b", b"2")]


def test_deleting_a_missing_key_is_no_error(engine: Engine) -> None:
    write(engine, (b"a", None), sync=True)
    assert list(engine.iterate()) == []


def test_a_batch_counts_its_operations(engine: Engine) -> None:
    batch = engine.batch()
    assert len(batch) == 0
    batch.put(b"a", b"1")
    batch.delete(b"a")
    assert len(batch) == 2


def test_nothing_of_a_batch_shows_before_it_is_written(engine: Engine) -> None:
    batch = engine.batch()
    batch.put(b"a", b"1")
    assert engine.get(b"a") is None
    engine.write(batch)
    assert engine.get(b"a") == b"1"


def test_an_empty_batch_may_be_written(engine: Engine) -> None:
    engine.write(engine.batch(), sync=True)
    engine.sync()
    assert list(engine.iterate()) == []


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        pytest.param(None, None, "bdfh", id="all"),
        pytest.param(b"d", None, "dfh", id="start-is-included"),
        pytest.param(None, b"f", "bd", id="stop-is-not"),
        pytest.param(b"c", b"g", "df", id="between-keys"),
        pytest.param(b"d", b"d\0", "d", id="a-single-key-at-start"),
        pytest.param(b"d", b"d", "", id="empty-range"),
        pytest.param(b"g", b"c", "", id="start-above-stop"),
        pytest.param(b"i", None, "", id="above-all"),
        pytest.param(None, b"a", "", id="below-all"),
        pytest.param(b"h", b"z", "h", id="last"),
        pytest.param(b"a", b"c", "b", id="first"),
    ],
)
def test_a_range_holds_start_and_not_stop(
    engine: Engine, start: bytes | None, stop: bytes | None, expected: str, reverse: bool
) -> None:
    fill(engine, "hbfd")
    assert keys_of(engine, start, stop, reverse=reverse) == (expected[::-1] if reverse else expected)


def test_iteration_without_values_yields_empty_ones(engine: Engine) -> None:
    fill(engine, "ab")
    assert list(engine.iterate(include_value=False)) == [(b"a", b""), (b"b", b"")]
    assert list(engine.iterate(include_value=False, reverse=True)) == [(b"b", b""), (b"a", b"")]


def test_an_iterator_does_not_see_later_writes(engine: Engine) -> None:
    fill(engine, "acd")
    pairs = engine.iterate()
    assert next(pairs) == (b"a", b"aa")
    write(engine, (b"b", b"new"), (b"c", b"new"), (b"d", None), (b"e", b"new"))
    assert list(pairs) == [(b"c", b"cc"), (b"d", b"dd")]
    assert keys_of(engine, None, None) == "abce"


def test_a_snapshot_shows_the_moment_it_was_taken(engine: Engine) -> None:
    fill(engine, "ab")
    snapshot = engine.snapshot()
    write(engine, (b"a", None), (b"b", b"new"), (b"c", b"new"))
    assert snapshot.get(b"a") == b"aa"
    assert snapshot.get(b"c") is None
    assert list(snapshot.iterate()) == [(b"a", b"aa"), (b"b", b"bb")]
    assert keys_of(snapshot, None, None, reverse=True) == "ba"
    engine.compact_range()
    assert list(snapshot.iterate(b"b", None)) == [(b"b", b"bb")]
    snapshot.close()


def test_a_closed_snapshot_refuses_reads(engine: Engine) -> None:
    snapshot = engine.snapshot()
    snapshot.close()
    snapshot.close()
    with pytest.raises(StorageClosedError):
        snapshot.get(b"a")
    with pytest.raises(StorageClosedError):
        next(snapshot.iterate())


def test_a_closed_engine_refuses_everything(engine: Engine) -> None:
    batch = engine.batch()
    engine.close()
    engine.close()
    for use in (
        lambda: engine.get(b"a"),
        lambda: next(engine.iterate()),
        lambda: engine.write(batch, sync=True),
        lambda: engine.write(batch),
        engine.sync,
        engine.snapshot,
    ):
        with pytest.raises(StorageClosedError):
            use()


def test_closing_with_open_iterators_and_snapshots_is_safe(engine: Engine) -> None:
    fill(engine, "abc")
    snapshot = engine.snapshot()
    from_engine, from_snapshot = engine.iterate(), snapshot.iterate()
    next(from_engine)
    next(from_snapshot)
    engine.close()
    snapshot.close()
    del from_engine, from_snapshot


def test_an_engine_refuses_the_batch_of_another_kind(engine: Engine) -> None:
    class Foreign:
        def put(self, key: bytes, value: bytes, /) -> None: ...
        def delete(self, key: bytes, /) -> None: ...
        def __len__(self) -> int:
            return 0

    with pytest.raises(TypeError, match="another engine"):
        engine.write(Foreign())


def test_size_grows_with_data(engine: Engine) -> None:
    before = engine.approximate_size_bytes()
    write(engine, *((b"%04d" % i, bytes(100)) for i in range(1000)))
    assert engine.approximate_size_bytes() >= before + 10_000


def test_compacting_a_range_keeps_what_is_live(engine: Engine) -> None:
    write(engine, *((b"%04d" % i, b"v%d" % i) for i in range(2000)))
    write(engine, *((b"%04d" % i, None) for i in range(1500)))
    engine.compact_range(b"0000", b"1000")
    engine.compact_range()
    assert list(engine.iterate()) == [(b"%04d" % i, b"v%d" % i) for i in range(1500, 2000)]


KEYS = st.binary(min_size=1, max_size=3)
OPERATIONS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=4)), max_size=8)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
@given(
    batches=st.lists(st.tuples(OPERATIONS, st.booleans()), max_size=8),
    start=st.none() | KEYS,
    stop=st.none() | KEYS,
    reverse=st.booleans(),
)
def test_an_engine_behaves_like_a_sorted_dictionary(
    new_engine: Callable[[], Engine],
    batches: list[tuple[list[tuple[bytes, bytes | None]], bool]],
    start: bytes | None,
    stop: bytes | None,
    reverse: bool,
) -> None:
    engine = new_engine()
    model: dict[bytes, bytes] = {}
    for operations, sync in batches:
        write(engine, *operations, sync=sync)
        for key, value in operations:
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
    expected: Pairs = [
        (key, model[key])
        for key in sorted(model, reverse=reverse)
        if (start is None or key >= start) and (stop is None or key < stop)
    ]
    assert list(engine.iterate(start, stop, reverse=reverse)) == expected
    assert [engine.get(key) for key in model] == list(model.values())
    engine.close()
