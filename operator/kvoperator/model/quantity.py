"""Kubernetes quantities and Go durations, as numbers."""

import re
from decimal import Decimal, InvalidOperation
from typing import Final

__all__ = ["duration_text_ms", "parse_duration_s", "parse_quantity", "same_quantity"]

_SUFFIXES: Final = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}
_QUANTITY: Final = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)")
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_quantity(text: str | int | float) -> Decimal:
    """The number that a quantity such as ``1Gi``, ``500m`` or ``1e3`` stands for.

    Raises:
        ValueError: It is no quantity.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity")
    try:
        return Decimal(match[1]) * _SUFFIXES[match[2]]
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a quantity") from error


def same_quantity(left: object, right: object) -> bool:
    """Whether both are quantities of the same size, however they are written."""
    if not isinstance(left, str | int | float) or not isinstance(right, str | int | float):
        return False
    try:
        return parse_quantity(left) == parse_quantity(right)
    except ValueError:
        return False


def parse_duration_s(text: str) -> float:
    """Seconds of a duration such as ``1h30m`` or ``250ms``.

    Raises:
        ValueError: It is no duration.
    """
    total_s, position = 0.0, 0
    while position < len(text):
        match = _DURATION_PART.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is not a duration")
        total_s += float(match[1]) * _UNIT_S[match[2]]
        position = match.end()
    if not text:
        raise ValueError("'' is not a duration")
    return total_s


def duration_text_ms(seconds: float) -> str:
    """Whole milliseconds, as the members' flags take them."""
    return str(round(seconds * 1000))
