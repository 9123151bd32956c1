"""Checks of arguments that all parts share; each error names argument, value and expectation."""

from __future__ import annotations

import operator
from typing import Any


def integer(value: Any, name: str, least: int) -> int:
    """`value` as an int of at least `least`; TypeError for another type, ValueError below."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}") from error
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def real(value: Any, name: str, least: float = float("-inf"), most: float = float("inf")) -> float:
    """`value` as a finite float within [least, most]; TypeError for another type, ValueError outside or NaN."""
    if isinstance(value, str | bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {value!r}") from error
    if not (least <= number <= most) or number in (float("inf"), float("-inf")):
        expected = "finite" if least == float("-inf") else f"within [{least:g}, {most:g}]"
        raise ValueError(f"{name} must be {expected}, got {number}")
    return number
