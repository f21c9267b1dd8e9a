"""JSON documents in and out of columns, strictly: what goes in comes out the same."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def to_json(document: Document) -> str:
    """Canonical: equal documents give equal text. ValueError for NaN and infinity, TypeError for
    what is no JSON."""
    return json.dumps(
        document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )


def from_json(text: str) -> dict[str, Any]:
    """The document."""
    found: dict[str, Any] = json.loads(text)
    return found


def now_s() -> float:
    """Seconds since 1970."""
    return time.time()
