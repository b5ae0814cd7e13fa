"""Range sets against a brute-force model: every key of a small world, one by one."""

from hypothesis import example, given
from hypothesis import strategies as st
from kvnode.auth.ranges import OPEN_END, RangeSet, is_grantable

#: All keys of up to two letters from a small alphabet that holds the extremes.
ALPHABET = (0x00, 0x61, 0x62, 0xFF)
WORLD = [b""] + [bytes((a,)) for a in ALPHABET] + [bytes((a, b)) for a in ALPHABET for b in ALPHABET]
KEYS = st.sampled_from(WORLD[1:])
ENDS = st.sampled_from([b"", OPEN_END, *WORLD[1:]])
RANGES = st.tuples(KEYS, ENDS).filter(lambda pair: is_grantable(*pair))
#: Between two keys of the world there are more: these stand for them.
PROBES = sorted({key + tail for key in WORLD[1:] for tail in (b"", b"\0", b"\0\0", b"m", b"\xff\xff")})


def is_in(key: bytes, start: bytes, range_end: bytes) -> bool:
    if not range_end:
        return key == start
    return start <= key and (range_end == OPEN_END or key < range_end)


@given(st.lists(RANGES, max_size=6), KEYS, ENDS)
@example([(b"a", b"b"), (b"b", b"\xff")], b"a", b"\xff")
@example([(b"a", b""), (b"a\0", b"b")], b"a", b"b")
@example([(b"a", b"b")], b"a", OPEN_END)
@example([(b"\0", OPEN_END)], b"\0", OPEN_END)
def test_a_range_is_covered_exactly_when_all_its_keys_are(granted, key, range_end):
    covered = RangeSet(granted).covers(key, range_end)
    asked = [probe for probe in PROBES if is_in(probe, key, range_end)]
    held = {probe for probe in PROBES if any(is_in(probe, *each) for each in granted)}
    if not asked:
        asked = [key]
    if range_end == OPEN_END:
        # No finite set of keys shows that a range goes on for ever.
        is_open = any(end == OPEN_END for _, end in granted)
        assert covered == (is_open and held.issuperset(asked))
    else:
        assert covered == held.issuperset(asked)


@given(st.lists(RANGES, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_grants_does_not_matter(granted, random):
    shuffled = list(granted)
    random.shuffle(shuffled)
    first, second = RangeSet(granted), RangeSet(shuffled)
    assert [first.covers(key, end) for key in WORLD for end in WORLD] == [
        second.covers(key, end) for key in WORLD for end in WORLD
    ]


def test_ranges_that_touch_are_one_and_a_gap_of_one_key_parts_them():
    assert RangeSet([(b"a", b"c"), (b"c", b"e")]).covers(b"a", b"e")
    assert RangeSet([(b"a", b"c"), (b"c", b""), (b"c\0", b"e")]).covers(b"a", b"e")
    assert not RangeSet([(b"a", b"c"), (b"c\0", b"e")]).covers(b"a", b"e")


def test_nothing_granted_covers_nothing():
    assert not RangeSet().covers(b"a")
    assert not RangeSet().covers(b"a", b"b")
    assert not RangeSet().covers(b"\0", OPEN_END)


def test_an_open_end_is_covered_only_by_an_open_end():
    assert not RangeSet([(b"a", b"\xff" * 8)]).covers(b"a", OPEN_END)
    assert RangeSet([(b"a", OPEN_END)]).covers(b"b", OPEN_END)
    assert not RangeSet([(b"b", OPEN_END)]).covers(b"a", OPEN_END)
    assert RangeSet([(b"b", OPEN_END), (b"a", b"b")]).covers(b"a", OPEN_END)


def test_an_empty_range_is_asked_for_by_its_key():
    granted = RangeSet([(b"b", b"f"), (b"h", b"")])
    for key, range_end in ((b"d", b"c"), (b"d", b"d"), (b"d", b"a"), (b"b", b"a"), (b"h", b"a")):
        assert granted.covers(key, range_end)
    for key, range_end in ((b"x", b"c"), (b"a", b"a"), (b"f", b"d"), (b"g", b"b")):
        assert not granted.covers(key, range_end)


def test_a_grant_must_hold_a_key():
    assert is_grantable(b"a", b"")
    assert is_grantable(b"a", b"b")
    assert is_grantable(b"z", OPEN_END)
    assert not is_grantable(b"", b"")
    assert not is_grantable(b"", OPEN_END)
    assert not is_grantable(b"b", b"a")
    assert not is_grantable(b"b", b"b")


def test_a_thousand_grants_are_asked_in_few_steps():
    granted = RangeSet((b"k%04d" % number, b"k%04d" % (number + 1)) for number in range(0, 2000, 2))
    assert granted.covers(b"k1000", b"k1001")
    assert not granted.covers(b"k1000", b"k1002")
    assert not granted.covers(b"k1001")
