"""Reading flag values as Go's flag package does, since manifests were written for it."""

import re

__all__ = ["parse_bool", "parse_duration_s", "parse_int"]

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_bool(text: str) -> bool:
    """Read ``true``, ``false`` or one of Go's short forms.

    Raises:
        ValueError: As the end of "must be ...".
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def parse_int(text: str) -> int:
    """Read a whole number; ``0x``, ``0o`` and ``0b`` and underscores between digits are allowed.

    Raises:
        ValueError: As the end of "must be ...".
    """
    try:
        if re.fullmatch(r"[+-]?0[0-7]+", text):  # Go: a leading zero means octal
            return int(text, 8)
        return int(text, 0)
    except ValueError:
        raise ValueError("a whole number") from None


def parse_duration_s(text: str) -> float:
    """Read a Go duration such as ``1h30m`` or ``100ms``; returns seconds.

    Raises:
        ValueError: As the end of "must be ...".
    """
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0.0
    total_s = 0.0
    position = 0
    while position < len(unsigned):
        part = _DURATION_PART.match(unsigned, position)
        if part is None:
            break
        total_s += float(part.group(1)) * _UNITS_S[part.group(2)]
        position = part.end()
    if not unsigned or position != len(unsigned):
        raise ValueError("a duration such as 500ms, 10s or 1h30m")
    return -total_s if text[0] == "-" else total_s
