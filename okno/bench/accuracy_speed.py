"""Predicted against measured speed, on models and number formats that calibration did not see.

Decode: tokens/s at each batch size and fill. First tokens: of requests that come together, each
against the real scheduler on simulated time. The calibration is made first, in the same minute.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from okno.bench.accuracy_speed_child import Decode, First, Job
from okno.bench.accuracy_speed_report import DecodeCase, FirstCase, report
from okno.bench.calibrate import BUDGET_S, calibrate
from okno.bench.chosen import chosen
from okno.bench.quantise import FileType
from okno.bench.report import publish
from okno.bench.shapes import PRESETS, write_gguf
from okno.bench.tensors import Shape
from okno.core.calibration import Calibration
from okno.core.errors import EngineFailed
from okno.core.load import FlashAttention, Load
from okno.core.python import module_command
from okno.core.window import KVType, Window
from okno.engines.process import worker_environment
from okno.inspect.header import read_header
from okno.plan.simulate import Arrival, simulate
from okno.plan.speed import Planner
from okno.plan.speed_attention import Part, batch_of
from okno.schedule.step import Limits

OUT = Path("docs/benchmarks/plan-accuracy-speed.md")
CALIBRATION = "plan-accuracy-calibration.json"  # kept in the folder, to look at a cost again
BATCHES = (1, 2, 4, 8, 16)
FILLS = (256, 1024, 4096, 8192)
PROMPTS = ((1, 64), (1, 512), (1, 2048), (2, 512), (4, 512), (8, 256), (16, 128))
SIMULATED_NEW_TOKENS = 24
QWEN3_600M = Shape("qwen3-0.6b", "qwen3", n_embd=1024, n_layer=28, n_head=16, n_head_kv=8,
                   head_dim=128, n_ff=3072, n_vocab=151_936, ctx_train=32_768,
                   rope_base=1e6)  # fmt: skip
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Model:
    """A shape in a number format, with the KV type it is run with."""

    shape: Shape
    file_type: FileType
    kv_type: KVType = "f16"
    flash: FlashAttention = "on"

    @property
    def name(self) -> str:
        kv = "" if self.kv_type == "f16" else f" KV {self.kv_type}"
        plain = " no-fa" if self.flash == "off" else ""
        return f"{self.shape.name} {self.file_type}{kv}{plain}"

    def load(self, batch_size: int, ctx: int) -> Load:
        """A window as it is measured."""
        window = Window(batch_size, ctx, batch_size * ctx, self.kv_type)
        return Load(window, flash_attention=self.flash)

    @property
    def file_name(self) -> str:
        return f"{self.shape.name}-{self.file_type}.gguf"


MODELS = (
    Model(PRESETS["llama-1b"], "Q4_0"),
    Model(PRESETS["llama-1b"], "Q4_K_M"),
    Model(PRESETS["llama-1b"], "Q4_K_M", "q8_0"),
    Model(PRESETS["llama-135m"], "Q4_0"),
    Model(PRESETS["llama-135m"], "F16"),
    Model(QWEN3_600M, "Q8_0"),
    Model(QWEN3_600M, "Q4_K_M"),
    Model(PRESETS["llama-1b"], "Q4_0", flash="off"),
    Model(QWEN3_600M, "Q8_0", flash="off"),
)


def run(
    folder: Path,
    *,
    out: Path | None = OUT,
    wanted: str | None = None,
    keep: bool = False,
    tell: Tell = print,
    calibration: Calibration | None = None,
    job: Job | None = None,
) -> tuple[list[DecodeCase], list[FirstCase]]:
    """Measure the models (all, or those with one of the words `wanted` in their name) and publish
    the report to `out`.

    Shape models are made in `folder`, used again when present, and removed at the end unless keep.
    calibration None: made now. job: what to measure (None: all batch sizes, fills and prompts).
    Raises BadSetting when no model has such a name, EngineFailed when a process dies.
    """
    models = chosen(MODELS, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    if calibration is None:
        tell(f"calibrating, {BUDGET_S:.0f} s")
        calibration = calibrate(None, BUDGET_S)
        (folder / CALIBRATION).write_bytes(msgspec.json.encode(calibration.to_json()))
    job = job or Job(calibration.threads, BATCHES, FILLS, PROMPTS)
    decodes: list[DecodeCase] = []
    firsts: list[FirstCase] = []
    for model in models:
        own = msgspec.structs.replace(job, kv_type=model.kv_type, flash=model.flash)
        for case in _cases(model, folder, own, calibration, keep=keep):
            tell(case.line())
            (decodes if isinstance(case, DecodeCase) else firsts).append(case)  # type: ignore[arg-type]
    publish(report(calibration, decodes, firsts), out)
    return decodes, firsts


def _cases(
    model: Model, folder: Path, job: Job, calibration: Calibration, *, keep: bool
) -> Iterator[DecodeCase | FirstCase]:
    path = folder / model.file_name
    ours = not path.exists()
    if ours:
        write_gguf(model.shape, path, model.file_type)
    try:
        planner = Planner(read_header(path), calibration)
        for measured in _measured(path, _as_served(model, planner, job, calibration)):
            if isinstance(measured, Decode):
                yield _decode_case(model, planner, measured)
            else:
                yield from _first_cases(model, planner, measured)
    finally:
        if ours and not keep:
            path.unlink(missing_ok=True)


def _as_served(model: Model, planner: Planner, job: Job, calibration: Calibration) -> Job:
    """`job` with what a worker that knows the calibration does."""
    filler = []
    for batch, fill in itertools.product(job.batches, job.fills):
        step = batch_of([Part(batch, 1, fill)])
        more = planner.model(model.load(batch, fill + 1)).filled(step).n_rows - batch
        filler += [(batch, fill, more)] if more else []
    return msgspec.structs.replace(job, filler=tuple(filler), calibration=calibration.to_json())


def _decode_case(model: Model, planner: Planner, measured: Decode) -> DecodeCase:
    """The plan's figure for that window against the median step."""
    ctx = measured.fill + 1
    plan = planner.predict(model.load(measured.batch, ctx), fill_tokens=ctx, prompt_tokens=1)
    rate = measured.batch / median(measured.seconds)
    return DecodeCase(model.name, measured.batch, measured.fill, plan.total_tok_s, rate)


def _first_cases(model: Model, planner: Planner, measured: First) -> Iterator[FirstCase]:
    """Each request's first token against that of the simulated scheduler."""
    count, prompt = measured.count, measured.prompt
    ctx = prompt + SIMULATED_NEW_TOKENS
    limits = Limits(count, count, count * ctx)
    arrivals = [Arrival(0.0, prompt, SIMULATED_NEW_TOKENS) for _ in range(count)]
    load = model.load(count, ctx)
    outcomes = simulate(arrivals, limits, planner.model(load).step_s)
    plan = planner.predict(load, fill_tokens=1, prompt_tokens=prompt)
    figure = plan.ttft_loaded_s
    for number, (outcome, seconds) in enumerate(zip(outcomes, measured.seconds, strict=True)):
        predicted = outcome.ttft_s
        scale = predicted / figure.value
        interval = (figure.low * scale, figure.high * scale)
        yield FirstCase(model.name, count, prompt, number, predicted, interval, seconds)


def _measured(path: Path, job: Job) -> Iterator[Decode | First]:
    words = msgspec.json.encode(job).decode()
    command = module_command("okno.bench.accuracy_speed_child", str(path), words)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=worker_environment()
    )
    assert child.stdout is not None
    try:
        for line in child.stdout:
            yield msgspec.json.decode(line, type=Decode | First)
        if child.wait() != 0:
            raise EngineFailed(f"measuring {path.name} ended with status {child.returncode}")
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()
