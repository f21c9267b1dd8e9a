"""The process that measures: `python -m okno.bench.calibrate_child THREADS BUDGET_S`.

Loads llama.cpp, which the callers of `calibrate` never do. Prints a line of JSON for each step of
progress, {"progress": 0..1}, and at last {"calibration": {...}}.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

from okno.bench import calibrate_attention as attention
from okno.bench import calibrate_fit as fit
from okno.bench import calibrate_measure as measure
from okno.bench.calibrate_measure import Bench
from okno.core.calibration import AttentionCost, Calibration
from okno.engines.worker import end_with_parent
from okno.inspect.hardware.engine import engine_name
from okno.inspect.memory import free_memory
from okno.plan.speed_types import bits_of

# Shares of the budget after which a part ends (begins nothing new).
ATTENTION_END, NARROW_END, EXPERTS_END, BANDWIDTH_END, PRODUCTS_END = 0.55, 0.60, 0.65, 0.69, 0.97
BIG_BLOCK_BYTES = 700 << 20
DEEP_BLOCKS_BYTES = 600 << 20
CONTEXTS_BYTES = 64 << 20  # of the two blocks of a type, with what they compute in
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """threads 0: never. began: when the budget started to run."""

    threads: int
    budget_s: float
    began: float

    def moment(self, share: float) -> float:
        return self.began + share * self.budget_s

    def over(self, share: float) -> bool:
        return time.monotonic() >= self.moment(share)


def run(plan: Plan, folder: Path, on_progress: Progress) -> Calibration:
    """Measure and fit. `machine` is left for the caller to fill in."""
    bench = Bench(folder, plan.threads, plan.moment(PRODUCTS_END))
    attending = _attention(bench, plan, on_progress)
    costs = fit.Costs(attending, plan.threads)
    narrow = measure.measure_narrow(bench.by(plan.moment(NARROW_END)))
    on_progress(NARROW_END)
    experts = measure.measure_experts(bench.by(plan.moment(EXPERTS_END)), measure.EXPERT_TYPES)
    on_progress(EXPERTS_END)
    read_bytes, read_s = _bandwidth(bench.by(plan.moment(BANDWIDTH_END)))
    on_progress(BANDWIDTH_END)
    layers = _layers_in_memory(measure.DEEP_LAYERS, DEEP_BLOCKS_BYTES)
    found = measure.measure_products(bench, _types_in_memory(), layers)
    wide = {type: [(measure.WIDE, samples)] for type, samples in found["wide"].items()}
    for type, samples in found["deep"].items():
        wide[type].append((measure.deep_block(type, layers), samples))
    overhead = fit.fit_overhead(narrow, wide["Q4_0"], costs)
    products = {type: fit.fit_product(made, overhead, costs) for type, made in wide.items()}
    slim = {
        type: fit.fit_product([(measure.SLIM, samples)], overhead, costs)
        for type, samples in found["slim"].items()
    }
    sampling_s, sample_s, entry_s = fit.fit_sampling(measure.measure_sampling())
    sample_s += fit.typical(measure.measure_scheduling())
    on_progress(1.0)
    return Calibration(
        engine=engine_name(),
        machine="",
        threads=plan.threads,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        kind="measured",
        bandwidth_bytes_s=read_bytes / max(read_s, 1e-9),
        weights=products,
        attention=attending,
        step_s=overhead.step_s,
        op_s=overhead.op_s,
        activation_s=overhead.activation_s,
        sampling_s=sampling_s,
        sample_s=sample_s,
        sample_entry_s=entry_s,
        noise=fit.noise_of(products),
        seen_depth_tokens=attention.DEPTHS[-1],
        slim=slim,
        wide_width=fit.width_of(measure.WIDE),
        slim_width=fit.width_of(measure.SLIM),
        experts=fit.fit_experts(experts, products, overhead, costs),
    )


def _attention(bench: Bench, plan: Plan, on_progress: Progress) -> tuple[AttentionCost, ...]:
    """All KV types at the common head size; the rest while time and memory allow."""
    found: list[AttentionCost] = []
    wanted = (*attention.FIRST, *attention.REST)
    with ExitStack() as stack:
        near = attention.open_sweeper(bench, stack, attention.NEAR)
        layers = _layers_in_memory(attention.FAR.n_layer, BIG_BLOCK_BYTES)
        far = attention.open_sweeper(bench, stack, replace(attention.FAR, n_layer=layers))
        room = free_memory().free_bytes // 3
        for number, shape in enumerate(wanted):
            is_first = number < len(attention.FIRST)
            if not is_first and (plan.over(ATTENTION_END) or shape.pool_bytes > room):
                continue
            sweepers = [near, far] if shape in attention.FAR_SHAPES else [near]
            for swept in attention.measure_attention(bench, shape, sweepers):
                found.append(fit.fit_attention(shape, swept, plan.threads))
            on_progress(ATTENTION_END * (number + 1) / len(wanted))
    return tuple(found)


def _bandwidth(bench: Bench) -> tuple[float, float]:
    """(bytes, seconds) of reading weights once, from a block that memory has room for."""
    layers = _layers_in_memory(measure.BIG_LAYERS, BIG_BLOCK_BYTES)
    n_bytes, seconds = measure.measure_bandwidth(bench, layers)
    return n_bytes, fit.typical(seconds)


def _types_in_memory() -> list[str]:
    """As many of TYPES as half the free memory holds at once; the first always, for the fits need
    it. What is left out is taken from the nearest of the others."""
    room = free_memory().free_bytes // 2
    n_weights = measure.WIDE.n_weights + measure.SLIM.n_weights
    needed = accumulate(n_weights * bits_of(type) / 8 + CONTEXTS_BYTES for type in measure.TYPES)
    fitting = sum(n_bytes <= room for n_bytes in needed)
    return list(measure.TYPES[: max(1, fitting)])


def _layers_in_memory(wanted: int, n_bytes: int) -> int:
    """As many of `wanted` layers, n_bytes together, as a third of the free memory holds."""
    room = free_memory().free_bytes // 3
    return max(1, min(wanted, wanted * room // n_bytes))


def main(arguments: list[str]) -> None:
    """The process."""
    end_with_parent()
    plan = Plan(int(arguments[0]), float(arguments[1]), time.monotonic())

    def on_progress(share: float) -> None:
        _say({"progress": round(share, 3)})

    with tempfile.TemporaryDirectory(prefix="okno-calibrate-") as folder:
        calibration = run(plan, Path(folder), on_progress)
    _say({"calibration": calibration.to_json()})


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
