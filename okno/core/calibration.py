"""What a calibration learnt of a machine: costs from which the step time of any model follows.

Measured by bench/calibrate.py on small random-weight models through the real engine, guessed by
plan/speed_rough.py for hardware that is not here, read by plan/speed.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from math import isfinite
from typing import Literal, cast

from okno.core.errors import BadSetting

VERSION = 6
CalibrationKind = Literal["measured", "rough"]
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds against a count (rows, or KV cells), which ascends. spread: half the width of the
    middle half of the repetitions, relative."""

    at: tuple[int, ...]
    seconds: tuple[float, ...]
    spread: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.at or not len(self.at) == len(self.seconds) == len(self.spread):
            raise ValueError("a curve needs as many seconds and spreads as counts, at least one")
        if self.at[0] < 1 or any(a >= b for a, b in pairwise(self.at)):
            raise ValueError(f"the counts of a curve must ascend from 1 or more, not {self.at}")


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """Seconds per row, query head and KV cell, for one KV type, head size and number of heads,
    against the cells a row sees.

    alone: the only row of a step. few: one of 2 to 63 rows, against the different cells that all
    of them see, because these share the caches. again: of several rows of one sequence in such a
    step each but the first, which has brought the cells into the caches (None: like the first), by
    the cells it sees. tiled: a row in a full tile of 64 (None: this KV
    type has no tiles). skip_s, skip_tile_s: a walked cell of another sequence. plain: without flash
    attention, where every row computes every walked cell, against the rows of a step (None: not
    measured, or this KV type needs flash attention). swept_bytes: weights that passed through the
    caches between two attentions.
    """

    kv_type: str
    head_dim: int
    alone: Curve
    few: Curve
    tiled: Curve | None
    skip_s: float
    skip_tile_s: float = 0.0
    n_head: int = 32
    n_head_kv: int = 8
    swept_bytes: int = 1
    plain: Curve | None = None
    again: Curve | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Costs on one machine with one engine build and number of threads.

    weights: per ggml type, seconds per weight of a product with so many rows, of matrices of
    wide_width inputs. slim: the same for slim_width inputs, at fewer row counts. experts: for the
    matrix of one expert. op_s: per operation of a step. activation_s: per row and value
    that goes in or out of a matrix. state_s: per row and value of recurrent state. step_s: per
    step. sampling_s, sample_s, sample_entry_s: per step that samples, per sampled row, and per
    entry of the vocabulary and row. noise: half width of the 90 % interval of a single step,
    relative. seen_depth_tokens: the deepest KV measured. created: ISO 8601, UTC.
    """

    engine: str
    machine: str
    threads: int
    created: str
    kind: CalibrationKind
    bandwidth_bytes_s: float
    weights: dict[str, Curve]
    attention: tuple[AttentionCost, ...]
    step_s: float
    op_s: float
    activation_s: float
    sampling_s: float
    sample_s: float
    sample_entry_s: float
    noise: float
    seen_depth_tokens: int
    experts: dict[str, Curve] = field(default_factory=dict)
    slim: dict[str, Curve] = field(default_factory=dict)
    wide_width: float = 2048.0
    slim_width: float = 768.0
    state_s: float = 0.0
    version: int = VERSION

    def to_json(self) -> Json:
        """A dict of plain JSON values."""
        return asdict(self)


def from_json(data: object) -> Calibration:
    """The calibration of `to_json`. Raises BadSetting naming what is wrong: an unknown or missing
    key, a value of the wrong type, a number that is not finite, or another version."""
    try:
        return _calibration(data)
    except (KeyError, TypeError, ValueError) as error:
        raise BadSetting(
            f"The stored calibration cannot be read: {error}. Run `okno calibrate` again."
        ) from error


def _calibration(data: object) -> Calibration:
    if isinstance(data, dict) and data.get("version", VERSION) != VERSION:
        raise ValueError(f"it has version {data['version']!r}, this okno reads {VERSION}")
    told = _object(data, Calibration)
    kind = _text(told, "kind")
    if kind not in ("measured", "rough"):
        raise ValueError(f"kind is {kind!r}, not `measured` or `rough`")
    return Calibration(
        engine=_text(told, "engine"),
        machine=_text(told, "machine"),
        threads=_count(told, "threads"),
        created=_text(told, "created"),
        kind=cast(CalibrationKind, kind),
        bandwidth_bytes_s=_number(told, "bandwidth_bytes_s"),
        weights=_curves(told["weights"]),
        attention=tuple(_attention(entry) for entry in _list(told, "attention")),
        step_s=_number(told, "step_s"),
        op_s=_number(told, "op_s"),
        activation_s=_number(told, "activation_s"),
        sampling_s=_number(told, "sampling_s"),
        sample_s=_number(told, "sample_s"),
        sample_entry_s=_number(told, "sample_entry_s"),
        noise=_number(told, "noise"),
        seen_depth_tokens=_count(told, "seen_depth_tokens"),
        experts=_curves(told["experts"]),
        slim=_curves(told["slim"]),
        wide_width=_width(told, "wide_width"),
        slim_width=_width(told, "slim_width"),
        state_s=_number(told, "state_s"),
    )


def _object(data: object, cls: type) -> dict[str, object]:
    """`data` with exactly the fields of `cls` as keys."""
    if not isinstance(data, dict):
        raise TypeError(f"{cls.__name__} is not an object")
    known = {f.name for f in fields(cls)}
    for what, names in (("unknown", data.keys() - known), ("missing", known - data.keys())):
        if names:
            raise ValueError(f"{what} in {cls.__name__}: {', '.join(sorted(map(str, names)))}")
    return cast("dict[str, object]", data)


def _curves(data: object) -> dict[str, Curve]:
    if not isinstance(data, dict):
        raise TypeError("curves are not an object")
    return {str(name): _curve(curve) for name, curve in data.items()}


def _curve(data: object) -> Curve:
    told = _object(data, Curve)
    return Curve(
        tuple(_is_count(count) for count in _list(told, "at")),
        tuple(_is_number(seconds) for seconds in _list(told, "seconds")),
        tuple(_is_number(spread) for spread in _list(told, "spread")),
    )


def _curve_or_none(data: object) -> Curve | None:
    return None if data is None else _curve(data)


def _attention(data: object) -> AttentionCost:
    told = _object(data, AttentionCost)
    return AttentionCost(
        kv_type=_text(told, "kv_type"),
        head_dim=_count(told, "head_dim"),
        alone=_curve(told["alone"]),
        few=_curve(told["few"]),
        tiled=_curve_or_none(told["tiled"]),
        skip_s=_number(told, "skip_s"),
        skip_tile_s=_number(told, "skip_tile_s"),
        n_head=_count(told, "n_head"),
        n_head_kv=_count(told, "n_head_kv"),
        swept_bytes=_count(told, "swept_bytes"),
        plain=_curve_or_none(told["plain"]),
        again=_curve_or_none(told["again"]),
    )


def _width(told: dict[str, object], name: str) -> float:
    width = _number(told, name)
    if width < 1:
        raise ValueError(f"{name} is {width!r}, not at least 1")
    return width


def _list(told: dict[str, object], name: str) -> list[object]:
    value = told[name]
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} is {value!r}, not a list")
    return list(value)


def _text(told: dict[str, object], name: str) -> str:
    value = told[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, not a text")
    return value


def _number(told: dict[str, object], name: str) -> float:
    return _is_number(told[name], name)


def _count(told: dict[str, object], name: str) -> int:
    return _is_count(told[name], name)


def _is_number(value: object, name: str = "a cost") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, not a number")
    if not isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a finite number of at least 0")
    return float(value)


def _is_count(value: object, name: str = "a count") -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}, not a whole number")
    if value < 1:
        raise ValueError(f"{name} is {value}, not at least 1")
    return value
