"""The hash over all changes that members keep as they apply."""

import random

import pytest
from kvnode.apply.applier import Applier
from kvnode.apply.commands import CommandKind, encode_command
from kvnode.mvcc.rolling import CHECKPOINT_ENTRIES
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.types import Entry, EntryKind
from kvnode.storage.memory import MemoryEngine


def entries(count: int, *, odd: int = 0) -> list[Entry]:
    """A log of puts and deletions; entry ``odd`` puts something else than it should."""
    found = []
    for index in range(1, count + 1):
        put = rpc.PutRequest(key=b"k%d" % (index % 7), value=b"odd" if index == odd else b"%d" % index)
        delete = rpc.DeleteRangeRequest(key=b"k%d" % (index % 5))
        data = encode_command(CommandKind.PUT, 0, put.SerializeToString())
        data += encode_command(CommandKind.DELETE_RANGE, 0, delete.SerializeToString())
        found.append(Entry(1, index, EntryKind.NORMAL, data))
    return found


def opened(engine: MemoryEngine) -> Applier:
    return Applier.open(engine, is_local=lambda request_id: False)


def applied(log: list[Entry], sizes: random.Random | None = None) -> Applier:
    """Apply a log, entry by entry or in batches of any size."""
    applier = opened(MemoryEngine())
    rest = log
    while rest:
        size = sizes.randint(1, 200) if sizes else 1
        applier.apply(rest[:size])
        rest = rest[size:]
    return applier


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_depend_on_how_entries_were_batched(seed: int) -> None:
    log = entries(1000)
    one, other = applied(log), applied(log, random.Random(seed))
    assert one.store.rolling.value == other.store.rolling.value
    assert list(one.store.rolling.checkpoints) == list(other.store.rolling.checkpoints)
    assert len(one.store.rolling.checkpoints) == 1000 // CHECKPOINT_ENTRIES


def test_one_different_change_shows_in_every_checkpoint_from_then_on() -> None:
    right, wrong = (applied(entries(1000, odd=odd)).store.rolling.checkpoints for odd in (0, 500))
    for one, other in zip(right, wrong, strict=True):
        assert one.revision == other.revision
        assert (one.hash == other.hash) is (one.index < 500)


def test_it_goes_on_after_a_restart_and_after_a_crash() -> None:
    log = entries(1000)
    engine = MemoryEngine()
    applier = opened(engine)
    applier.apply(log[:300], sync=True)
    applier.apply(log[300:400])
    engine.crash(lambda unsynced: 0)
    applier = opened(engine)
    assert applier.applied_index == 300
    applier.apply(log[300:])
    assert applier.store.rolling.at(960) == applied(log).store.rolling.at(960)
