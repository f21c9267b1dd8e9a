"""How far a predicted time may be off: half the width of its 90 % interval, relative.

The parts are independent and add up in squares. The constants come from the residuals of
`okno bench plan-accuracy --what speed` (docs/benchmarks/plan-accuracy-speed.md).
"""

from __future__ import annotations

import math

from okno.core.plan import Figure
from okno.plan.speed_attention import Batch
from okno.plan.speed_model import SpeedModel

MODEL_ERROR = {"measured": 0.08, "rough": 0.45}
NOISE_SHARE = 0.5  # of a single step: rates and prompts are means over many
PROMPT_ERROR = 1.5  # of prompts, over that of steps
UNMEASURED_TYPE_ERROR = 0.25
UNMEASURED_EXPERTS_ERROR = 0.4
UNMEASURED_STATE_ERROR = 0.5
UNMEASURED_KV_ERROR = 0.4
UNMEASURED_HEAD_ERROR = 0.2
PER_DOUBLED_DEPTH_ERROR = 0.1
PER_DOUBLED_ROWS_ERROR = 0.1


def relative_error(model: SpeedModel, batch: Batch, outputs: int) -> float:
    """For the time of steps like `batch`."""
    seconds = model.batch_s(batch, outputs)
    attention = model.attention_s(batch) / seconds
    parts = [
        MODEL_ERROR[model.calibration.kind],
        NOISE_SHARE * model.calibration.noise,
        UNMEASURED_TYPE_ERROR * _unmeasured_share(model),
        UNMEASURED_EXPERTS_ERROR * _expert_share(model),
        UNMEASURED_STATE_ERROR * _state_share(model),
        attention * _attention_error(model, batch),
        PER_DOUBLED_ROWS_ERROR * _doublings(batch.n_rows, _most_rows(model)),
    ]
    return math.sqrt(sum(part * part for part in parts))


def interval(value: float, error: float) -> Figure:
    """`value` with the interval that a time off by a factor of 1 + error gives."""
    return Figure(value, value / (1 + error), value * (1 + error))


def _unmeasured_share(model: SpeedModel) -> float:
    """Of the dense weights, those of types that calibration did not see."""
    parts = (model.work.every_row.weights, model.work.output_rows.weights)
    total = sum(sum(part.values()) for part in parts)
    measured = model.calibration.weights
    unseen = sum(n for part in parts for type, n in part.items() if type not in measured)
    return unseen / total if total else 0.0


def _expert_share(model: SpeedModel) -> float:
    """Of the weights a row passes, those in experts that calibration did not see."""
    both = (model.work.every_row, model.work.output_rows)
    used = sum(
        e.n_weights * e.n_used / e.n_expert
        for part in both
        for e in part.experts
        if e.type not in model.calibration.experts
    )
    dense = sum(sum(part.weights.values()) for part in both)
    return used / (used + dense) if used else 0.0


def _state_share(model: SpeedModel) -> float:
    """1 for a model all of recurrent layers, when calibration measured none."""
    layers = model.header.layers
    if model.calibration.state_s or not layers:
        return 0.0
    return sum(layer.state_width > 0 for layer in layers) / len(layers)


def _attention_error(model: SpeedModel, batch: Batch) -> float:
    measured = {(cost.kv_type, cost.head_dim) for cost in model.calibration.attention}
    wanted = {(model.kv_type, round(layers.head_dim)) for layers in model.work.attention}
    unmeasured = 0.0
    if not wanted <= measured:
        known_types = {kv_type for kv_type, _ in measured}
        is_type_known = model.kv_type in known_types
        unmeasured = UNMEASURED_HEAD_ERROR if is_type_known else UNMEASURED_KV_ERROR
    deepest = max(part.depth + part.rows for part in batch.parts)
    deeper = _doublings(deepest, model.calibration.seen_depth_tokens)
    return unmeasured + PER_DOUBLED_DEPTH_ERROR * deeper


def _most_rows(model: SpeedModel) -> int:
    return min(curve.at[-1] for curve in model.calibration.weights.values())


def _doublings(value: int, seen: int) -> float:
    return math.log2(value / seen) if value > seen else 0.0
