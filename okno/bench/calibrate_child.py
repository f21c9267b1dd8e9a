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
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from okno.bench import calibrate_fit as fit
from okno.bench import calibrate_measure as measure
from okno.bench.calibrate_measure import Bench
from okno.core.calibration import AttentionCost, Calibration
from okno.engines.worker import end_with_parent
from okno.inspect.memory import free_memory

# Shares of the budget after which a part ends; attention has no end of its own, it comes first
# and takes what it takes.
NARROW_END, EXPERTS_END, BANDWIDTH_END, PRODUCTS_END = 0.30, 0.38, 0.44, 0.95
BIG_BLOCK_BYTES = 700 << 20
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """threads 0: never. began: when the budget started to run."""

    threads: int
    budget_s: float
    began: float

    def moment(self, share: float) -> float:
        return self.began + share * self.budget_s


def run(plan: Plan, folder: Path, on_progress: Progress) -> Calibration:
    """Measure and fit. `machine` is left for the caller to fill in."""
    bench = Bench(folder, plan.threads, plan.moment(PRODUCTS_END))
    attention = _attention(bench, plan, on_progress)
    costs = fit.Costs(attention, plan.threads)
    narrow = measure.measure_narrow(bench.by(plan.moment(NARROW_END)))
    on_progress(NARROW_END)
    experts = measure.measure_experts(bench.by(plan.moment(EXPERTS_END)), measure.EXPERT_TYPES)
    on_progress(EXPERTS_END)
    read_bytes, read_s = _bandwidth(bench.by(plan.moment(BANDWIDTH_END)))
    on_progress(BANDWIDTH_END)
    found = measure.measure_products(bench, measure.TYPES)
    overhead = fit.fit_overhead(narrow, found["wide"]["Q4_0"], costs)
    products = fit.fit_products(measure.WIDE, found["wide"], overhead, costs)
    slim = fit.fit_products(measure.SLIM, found["slim"], overhead, costs)
    sample_s, entry_s = fit.fit_sampling(measure.measure_sampling())
    sample_s += fit.typical(measure.measure_scheduling())
    on_progress(1.0)
    return Calibration(
        engine=f"llama-cpp-python {version('llama-cpp-python')}",
        machine="",
        threads=plan.threads,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        kind="measured",
        bandwidth_bytes_s=read_bytes / max(read_s, 1e-9),
        weights=products,
        attention=attention,
        step_s=overhead.step_s,
        op_s=overhead.op_s,
        activation_s=overhead.activation_s,
        sample_s=sample_s,
        sample_entry_s=entry_s,
        noise=fit.noise_of(products),
        seen_depth_tokens=measure.DEPTHS[-1],
        slim=slim,
        wide_width=fit.width_of(measure.WIDE),
        slim_width=fit.width_of(measure.SLIM),
        experts=fit.fit_experts(experts, products, overhead, costs),
    )


def _attention(bench: Bench, plan: Plan, on_progress: Progress) -> tuple[AttentionCost, ...]:
    """All KV types at the common head size first; the rest while time allows."""
    wanted = [(kv, dim) for kv, dims in measure.HEADS.items() for dim in dims]
    wanted.sort(key=lambda pair: measure.HEADS[pair[0]].index(pair[1]))
    found: list[AttentionCost] = []
    bench = bench.by(plan.moment(NARROW_END - 0.05))
    for number, (kv, dim) in enumerate(wanted):
        if number >= len(measure.HEADS) and bench.over():
            break
        samples = measure.measure_attention(bench, kv, dim)
        found.append(fit.fit_attention(kv, dim, samples, plan.threads))
        on_progress(NARROW_END * (number + 1) / (len(wanted) + 1))
    return tuple(found)


def _bandwidth(bench: Bench) -> tuple[float, float]:
    """(bytes, seconds) of reading weights once, from a block that memory has room for."""
    room = free_memory().free_bytes // 3
    layers = max(1, min(measure.BIG_LAYERS, measure.BIG_LAYERS * room // BIG_BLOCK_BYTES))
    n_bytes, seconds = measure.measure_bandwidth(bench, layers)
    return n_bytes, fit.typical(seconds)


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
