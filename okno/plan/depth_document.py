"""A DepthCurve as a JSON document, for the store and for programs, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from okno.plan.depth import DepthCurve

VERSION = 1


def to_document(curve: DepthCurve) -> dict[str, Any]:
    """Intervals without an end are null: JSON has no infinity."""
    told: dict[str, Any] = _finite(asdict(curve))
    return {"version": VERSION} | told


def from_document(document: Mapping[str, Any]) -> DepthCurve | None:
    """The curve; None for a document of another version or shape."""
    if document.get("version") != VERSION:
        return None
    told = {name: value for name, value in document.items() if name != "version"}
    try:
        curve = msgspec.convert(_endless(told), DepthCurve)
    except msgspec.ValidationError:
        return None
    return curve if curve.windows and curve.positions else None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _endless(value: Any) -> Any:
    """The inverse of _finite: a Figure's missing ends are infinite."""
    if isinstance(value, dict):
        ends = {"low": -math.inf, "high": math.inf} if "value" in value else {}
        return {
            name: ends[name] if item is None and name in ends else _endless(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_endless(item) for item in value]
    return value
