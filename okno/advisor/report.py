"""A plan with everything that is shown beside it, and its JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from okno.core.machine import Machine
from okno.core.plan import Figure, MemoryPlan, PlannedLoad, SpeedPlan
from okno.plan.advice import Advice
from okno.plan.search import Plan, fits
from okno.plan.user_table import Judged

Json = dict[str, object]
SpeedSource = Literal["measured", "rough", "unknown"]


@dataclass(frozen=True, slots=True)
class Subject:
    """The model as it is shown. where: path, address, or `catalog`. is_estimated: sizes are
    computed from its shape, not read from a file."""

    name: str
    where: str
    architecture: str
    n_params: int
    file_type: str
    file_bytes: int
    ctx_train: int
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """Words that fit into a window: words per token of a language, where it was measured."""

    language: str
    words_per_token: Figure


@dataclass(frozen=True, slots=True)
class PlanReport:
    """asked: the window that was asked for, when batch size and ctx were given. instead: the best
    window where the asked one does not fit. calibration: what
    speeds rest on. table: the user's own row for this memory. depth: what the measured depth curve
    says. notes: sentences on what the figures rest on."""

    subject: Subject
    machine: Machine
    plan: Plan
    asked: PlannedLoad | None
    calibration: SpeedSource
    instead: PlannedLoad | None = None
    advice: tuple[Advice, ...] = ()
    table: Judged | None = None
    words: tuple[Words, ...] = ()
    depth: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def asked_fits(self) -> bool | None:
        return None if self.asked is None else fits(self.asked.memory)

    @property
    def shown(self) -> PlannedLoad | None:
        """The window whose memory is drawn: the asked one, else the pick."""
        return self.asked or self.plan.pick


def as_json(report: PlanReport) -> Json:
    """The report for programs; sizes in bytes, lengths in tokens, times in s."""
    plan, goal = report.plan, report.plan.goal
    return {
        "model": asdict(report.subject),
        "machine": machine_json(report.machine),
        "goal": asdict(goal) | {"max_ttft_s": goal.ttft_limit_s, "min_tok_s": goal.tok_s_floor},
        "pick": None if plan.pick is None else load_json(plan.pick, plan),
        "why": list(plan.why),
        "is_tight": plan.is_tight,
        "meets_limits": plan.meets_limits,
        "asked": None if report.asked is None else load_json(report.asked, plan),
        "instead": None if report.instead is None else load_json(report.instead, plan),
        "windows": [load_json(planned, plan) for planned in plan.loads],
        "room_bytes": plan.room_bytes,
        "calibration": report.calibration,
        "advice": [_advice_json(advice) for advice in report.advice],
        "table": None if report.table is None else asdict(report.table),
        "words": [asdict(words) for words in report.words],
        "depth": report.depth,
        "notes": list(report.notes),
    }


def machine_json(machine: Machine) -> Json:
    return {**asdict(machine), "fingerprint": machine.fingerprint}


def load_json(planned: PlannedLoad, plan: Plan | None = None) -> Json:
    """A window: what it needs, whether it fits, what it gives."""
    load = asdict(planned.load)
    return {
        **load.pop("window"),
        **load,
        "fits": fits(planned.memory),
        "comfortable": plan.comfortable(planned) if plan else fits(planned.memory),
        "memory": memory_json(planned.memory),
        "speed": None if planned.speed is None else speed_json(planned.speed),
    }


def memory_json(memory: MemoryPlan) -> Json:
    return {
        "needed_bytes": memory.needed_bytes,
        "margin_bytes": memory.margin_bytes,
        "source": memory.source,
        "devices": [
            {
                "device": device.device,
                "free_bytes": device.free_bytes,
                "needed_bytes": device.parts.needed_bytes,
                "parts": asdict(device.parts),
            }
            for device in memory.devices
        ],
    }


def speed_json(speed: SpeedPlan) -> Json:
    return asdict(speed)


def _advice_json(advice: Advice) -> Json:
    told = asdict(advice)
    load = told.pop("load")
    return {**told, "batch_size": load["window"]["batch_size"], "ctx": load["window"]["ctx"],
            "kv_type": load["window"]["kv_type"], "gpu_layers": load["gpu_layers"],
            "mmap": load["mmap"]}  # fmt: skip
