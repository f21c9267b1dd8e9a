"""`okno tune`: the best few windows of a plan, verified by measurement."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from okno.cli.options import GivenFlags, with_settings
from okno.config.load import load
from okno.core.errors import BadSetting, DoesNotFit
from okno.core.plan import PlannedLoad
from okno.inspect.hardware.overrides import Overrides

if TYPE_CHECKING:
    from okno.advisor.report import PlanReport
    from okno.bench.tune import Run, Tuned

SETTINGS = ("models_dir", "gpu_layers", "mmap", "flash_attention", "step_tokens", "config")
EPILOG = (
    "Each candidate gets one burst: batch-size prompts at once, then all of them decoding. At most "
    "6 runs and 3 minutes. Results are kept, so that `okno plan` shows them as measured."
)


@with_settings(*SETTINGS)
def tune(
    given: GivenFlags,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A path, a name in the models folder, or demo.")
    ] = "demo",
    prefer: Annotated[
        str, typer.Option(metavar="GOAL", help="speed, quality, context or users, as in plan.")
    ] = "speed",
    max_ttft: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Limit on the last first token.")
    ] = None,
    min_tok_s: Annotated[
        str | None, typer.Option(metavar="RATE", help="Least tokens/s for each user.")
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Length of a prompt.")
    ] = None,
    ctx: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Tokens of one request.")
    ] = None,
    kv_type: Annotated[str | None, typer.Option(metavar="TYPE", help="Of the KV cache.")] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Write batch_size and ctx to generation_config.yaml.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> int:
    """Measure the best few windows of a model on this machine and pick one."""
    from okno.advisor.planning import make_plan
    from okno.advisor.request import Words, load_template, plan_request
    from okno.bench.tune import candidates

    told = [(name, value) for name, value in given if name in SETTINGS]  # not those of the goal
    settings = load(told, os.environ).settings
    words = Words(
        model=model, prefer=prefer, max_ttft=max_ttft, min_tok_s=min_tok_s, ctx=ctx,
        prompt_tokens=prompt_tokens, kv_type=kv_type,
    )  # fmt: skip
    template = load_template(
        mmap=settings.mmap, gpu_layers=settings.gpu_layers, step_tokens=settings.step_tokens,
        flash_attention=settings.flash_attention,
    )  # fmt: skip
    request = plan_request(
        words, overrides=Overrides(), models_dir=settings.models_dir, template=template
    )
    report = make_plan(request)
    chosen = candidates(report.plan, report.subject.ctx_train)
    if not chosen:
        raise DoesNotFit(f"{' '.join(report.plan.why)} `okno plan {model}` says what to change.")
    tuned = _measured(report, chosen)
    if save and tuned.best:
        _save(tuned.best, settings.config)
    _print(report, tuned, as_json)
    return 0 if tuned.best else 1


def _measured(report: PlanReport, chosen: tuple[PlannedLoad, ...]) -> Tuned:
    """Run the candidates and keep what came of them."""
    from okno.advisor.learnt import save_run
    from okno.bench.tune import tune_model
    from okno.store.database import Database

    path = Path(report.subject.where)
    if not path.is_file():
        raise BadSetting(
            f"{report.subject.name} is not here ({report.subject.where}); only a model that can be "
            "loaded can be measured. Give the path of its GGUF file."
        )
    tuned = asyncio.run(
        tune_model(path, chosen, report.plan.goal, report.subject.ctx_train, on_run=_say)
    )
    database = Database()
    for run in tuned.runs:
        if run.measured and run.measured.speed:
            save_run(database, report.machine, path, run.measured.load, run.measured.speed)
    return tuned


def _say(planned: PlannedLoad) -> None:
    window = planned.load.window
    typer.echo(f"Measuring batch {window.batch_size} x ctx {window.ctx:,} ...", err=True)


def _save(best: PlannedLoad, named: str | None) -> None:
    """Into the settings file in use, or a new one; comments and order stay."""
    from okno.config.changing import changed, created, target
    from okno.config.file import file_of, printable
    from okno.config.where import find_file
    from okno.config.write import write_file

    window = best.load.window
    file = find_file(named)
    path = file.path if file else target(named)
    values = {"batch_size": window.batch_size, "ctx": window.ctx}
    for name, value in values.items():
        key = f"load.{name}"
        text = changed(file, key, str(value)) if file else created(path, key, str(value))
        file = file_of(path, text.encode())
    write_file(path, text)
    told = ", ".join(f"{name} {value:,}" for name, value in values.items())
    typer.echo(f"{printable(str(path))}: {told}.", err=True)


def _print(report: PlanReport, tuned: Tuned, as_json: bool) -> None:
    if as_json:
        json.dump(tuned_json(report, tuned), sys.stdout, ensure_ascii=False, indent=2)
        typer.echo()
        return
    from okno.cli.tables import console
    from okno.cli.tables_models import print_tuned

    print_tuned(report, tuned, console())


def tuned_json(report: PlanReport, tuned: Tuned) -> dict[str, Any]:
    """The result for programs."""
    from okno.advisor.report import load_json

    return {
        "model": asdict(report.subject),
        "goal": asdict(report.plan.goal),
        "predicted_pick": None if report.plan.pick is None else load_json(report.plan.pick),
        "best": None if tuned.best is None else load_json(tuned.best),
        "runs": [_run_json(run) for run in tuned.runs],
        "left_out": tuned.left_out,
        "seconds": tuned.seconds,
    }


def _run_json(run: Run) -> dict[str, Any]:
    from okno.advisor.report import load_json

    return {
        "predicted": load_json(run.predicted),
        "measured": None if run.measured is None else load_json(run.measured),
        "late": run.late,
    }
