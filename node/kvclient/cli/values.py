"""How values are written on the command line: durations, hexadecimal ids, quoted words."""

import re
from collections.abc import Iterator

import click

__all__ = ["DURATION", "HEX_ID", "REVISION", "split_words", "unquote"]

_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Duration(click.ParamType[float]):
    """Seconds from ``500ms``, ``5s``, ``1m30s``, or a bare number of seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = str(value)
        try:
            return float(text)
        except ValueError:
            pass
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is not a duration like 5s, 500ms or 1m30s", param, ctx)
        return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


class _HexId(click.ParamType[int]):
    """A member or lease id: hexadecimal, as the tools print it."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            number = int(str(value), 16)
        except ValueError:
            self.fail(f"{value!r} is not a hexadecimal id", param, ctx)
        if not 0 <= number < 1 << 64:
            self.fail(f"{value!r} does not fit in 64 bits", param, ctx)
        return number


DURATION = _Duration()
HEX_ID = _HexId()
REVISION = click.IntRange(min=0)

_WORD = re.compile(
    r"""
      "(?:[^"\\]|\\.)*"     # double quotes: backslash escapes mean what they mean in Go
    | '[^']*'               # single quotes: nothing is special inside
    | [^\s"']\S*            # a bare word, quotes inside it included
    """,
    re.VERBOSE,
)

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_SIMPLE_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
    "'": "'",
}


def split_words(line: str) -> list[str]:
    """The words of a command typed on standard input, their quotes taken off.

    Raises:
        ValueError: A quote is not closed, or an escape is unknown.
    """
    return list(_words(line))


def _words(line: str) -> Iterator[str]:
    position = 0
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        match = _WORD.match(line, position)
        if match is None:
            raise ValueError(f"unclosed quote in {line.strip()!r}")
        position = match.end()
        word = match[0]
        if word[0] == '"':
            yield unquote(word)
        elif word[0] == "'":
            yield word[1:-1]
        else:
            yield word


def unquote(literal: str) -> str:
    """The text of a double-quoted literal; bytes that are not UTF-8 survive as surrogates.

    Raises:
        ValueError: It is not one.
    """
    if len(literal) < 2 or literal[0] != '"' or literal[-1] != '"':
        raise ValueError(f"{literal!r} is not in double quotes")

    def replaced(match: re.Match[str]) -> str:
        byte_hex, short, long, octal, simple = match.groups()
        if byte_hex:
            return _byte(int(byte_hex, 16))
        if octal:
            return _byte(int(octal, 8) & 0xFF)
        if short or long:
            return chr(int(short or long, 16))
        if simple in _SIMPLE_ESCAPES:
            return _SIMPLE_ESCAPES[simple]
        raise ValueError(f"unknown escape \\{simple} in {literal}")

    text = _ESCAPE.sub(replaced, literal[1:-1])
    # Several \x escapes may spell one UTF-8 character.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _byte(number: int) -> str:
    return bytes([number]).decode("utf-8", "surrogateescape")
