"""What is wrong with JSON, in the words of Go's ``encoding/json``, which clients of etcd's gateway see.

Slow, one character at a time: asked only about text that could not be read.
"""

from __future__ import annotations

from typing import Final

__all__ = ["UNEXPECTED_END", "syntax_error"]

UNEXPECTED_END: Final = "unexpected EOF"

_SPACE: Final = " \t\r\n"
_DIGITS: Final = "0123456789"
_HEX: Final = "0123456789abcdefABCDEF"


class _FaultError(Exception):
    """Ends the search; the argument is the whole text."""


def syntax_error(text: str, position: int = 0) -> str | None:
    """Return what is wrong with the JSON value at ``position``, or None: it is well-formed.

    What follows the value does not matter.
    """
    try:
        _Scanner(text, position).value()
    except _FaultError as fault:
        return str(fault)
    return None


class _Scanner:
    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self._position = position

    def value(self) -> None:
        """Read one value; nesting is kept in a list, so that its depth costs no stack."""
        open_brackets: list[str] = []
        self._begin_value(open_brackets)
        while open_brackets:
            if open_brackets[-1] == "{":
                self._go_on_in_object(open_brackets)
            else:
                self._go_on_in_array(open_brackets)

    def _begin_value(self, open_brackets: list[str]) -> None:
        """Read a scalar, or enter an object or array; both may turn out to be empty."""
        while True:
            char = self._next_token()
            if char == "{":
                char = self._next_token()
                if char == "}":
                    return
                self._key(char)
                open_brackets.append("{")
            elif char == "[":
                if self._peek_token() == "]":
                    self._position += 1
                    return
                open_brackets.append("[")
            else:
                self._scalar(char)
                return

    def _go_on_in_object(self, open_brackets: list[str]) -> None:
        char = self._next_token()
        if char == "}":
            open_brackets.pop()
        elif char == ",":
            self._key(self._next_token())
            self._begin_value(open_brackets)
        else:
            raise self._fault(char, "after object key:value pair")

    def _go_on_in_array(self, open_brackets: list[str]) -> None:
        char = self._next_token()
        if char == "]":
            open_brackets.pop()
        elif char == ",":
            self._begin_value(open_brackets)
        else:
            raise self._fault(char, "after array element")

    def _key(self, char: str) -> None:
        if char != '"':
            raise self._fault(char, "looking for beginning of object key string")
        self._string()
        char = self._next_token()
        if char != ":":
            raise self._fault(char, "after object key")

    def _scalar(self, char: str) -> None:
        if char == '"':
            self._string()
        elif char == "-" or char in _DIGITS:
            self._number(char)
        elif char in "tfn":
            for expected in {"t": "true", "f": "false", "n": "null"}[char][1:]:
                found = self._next()
                if found != expected:
                    word = {"t": "true", "f": "false", "n": "null"}[char]
                    raise self._fault(found, f"in literal {word} (expecting {_quoted(expected)})")
        else:
            raise self._fault(char, "looking for beginning of value")

    def _string(self) -> None:
        while (char := self._next()) != '"':
            if char == "\\":
                char = self._next()
                if char == "u":
                    for _ in range(4):
                        char = self._next()
                        if char not in _HEX:
                            raise self._fault(char, "in \\u hexadecimal character escape")
                elif char not in 'bfnrt\\/"':
                    raise self._fault(char, "in string escape code")
            elif char < " ":
                raise self._fault(char, "in string literal")

    def _number(self, char: str) -> None:
        if char == "-":
            char = self._next()
            if char not in _DIGITS:
                raise self._fault(char, "in numeric literal")
        if char != "0":
            self._digits()
        if self._peek() == ".":
            self._position += 1
            char = self._next()
            if char not in _DIGITS:
                raise self._fault(char, "after decimal point in numeric literal")
            self._digits()
        if self._peek() in ("e", "E"):
            self._position += 1
            char = self._next()
            if char in "+-":
                char = self._next()
            if char not in _DIGITS:
                raise self._fault(char, "in exponent of numeric literal")
            self._digits()

    def _digits(self) -> None:
        while self._peek() in _DIGITS and self._peek():
            self._position += 1

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise _FaultError(UNEXPECTED_END)
        self._position += 1
        return char

    def _peek_token(self) -> str:
        while (char := self._peek()) and char in _SPACE:
            self._position += 1
        return char

    def _next_token(self) -> str:
        self._peek_token()
        return self._next()

    def _fault(self, char: str, context: str) -> _FaultError:
        return _FaultError(f"invalid character {_quoted(char)} {context}")


def _quoted(char: str) -> str:
    """A character as Go shows it."""
    if char == "'":
        return r"'\''"
    if char == '"':
        return "'\"'"
    # Go reads bytes: of a character beyond ASCII it shows the first one, as the character of that number.
    char = chr(char.encode("utf-8", "surrogateescape")[0])
    if char.isprintable():
        return f"'{char}'" if char != "\\" else r"'\\'"
    return (
        "'" + _ESCAPES.get(char, f"\\x{ord(char):02x}" if ord(char) < 0x80 else f"\\u{ord(char):04x}") + "'"
    )


_ESCAPES: Final = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
}
