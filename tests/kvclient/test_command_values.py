"""Words, quotes and durations as they are typed."""

import click
import pytest
from kvclient.cli.values import DURATION, HEX_ID, split_words, unquote


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param("get a", ["get", "a"], id="bare"),
        pytest.param('put k "two words"', ["put", "k", "two words"], id="double-quotes"),
        pytest.param("put k 'a \"b\" \\n'", ["put", "k", 'a "b" \\n'], id="single-quotes-are-literal"),
        pytest.param(r'put k "a\tb\x41\"é"', ["put", "k", 'a\tbA"é'], id="escapes"),
        pytest.param('put k ""', ["put", "k", ""], id="empty-word"),
        pytest.param('  get   --prefix  ""  ', ["get", "--prefix", ""], id="blanks"),
        pytest.param("put k it's", ["put", "k", "it's"], id="quote-inside-a-word"),
    ],
)
def test_a_line_splits_into_words(line: str, words: list[str]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize("line", ['put k "open', "put k 'open", r'put k "\q"'])
def test_a_broken_quote_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"quote|escape"):
        split_words(line)


def test_byte_escapes_may_spell_utf8_or_not() -> None:
    assert unquote(r'"\xc3\xa9"') == "é"
    assert unquote(r'"\xff"').encode("utf-8", "surrogateescape") == b"\xff"
    assert unquote(r'"\377\u00e9"').encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1.5h", 5400), ("2", 2), ("0", 0), ("10us", 1e-5)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5 s", "s", "5x", "1s2"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a duration"):
        DURATION.convert(text, None, None)


def test_ids_are_hexadecimal() -> None:
    assert HEX_ID.convert("8e9e05c52164694d", None, None) == 0x8E9E05C52164694D
    with pytest.raises(click.BadParameter, match="hexadecimal"):
        HEX_ID.convert("xyz", None, None)
    with pytest.raises(click.BadParameter, match="64 bits"):
        HEX_ID.convert("1" + "0" * 16, None, None)
