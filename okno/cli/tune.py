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

from okno.cli.keeping import kept
from okno.cli.obtaining import BITS_SETTINGS, about_bits, obtained, remark, wants_of
from okno.cli.options import GOAL_SETTINGS, GivenFlags, with_settings
from okno.config.load import load
from okno.core.commands import quoted
from okno.core.errors import BadSetting, DoesNotFit
from okno.core.plan import PlannedLoad
from okno.inspect.hardware.overrides import Overrides

if TYPE_CHECKING:
    from okno.advisor.report import PlanReport
    from okno.bench.tune import Run, Tuned

SETTINGS = (
    "models_dir", *BITS_SETTINGS.values(), *GOAL_SETTINGS, "gpu_layers", "mmap", "flash_attention",
    "step_tokens", "config",
)  # fmt: skip
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
    prompt_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Length of a prompt.")
    ] = None,
    ctx: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Tokens of one request.")
    ] = None,
    kv_type: Annotated[str | None, typer.Option(metavar="TYPE", help="Of the KV cache.")] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Write what was measured best to the settings file: batch_size, ctx, kv_type, and "
            "those of --step-tokens, --gpu-layers, --mmap and --flash-attention that are set for "
            "this run.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> int:
    """Measure the best few windows of a model on this machine and pick one."""
    from okno.advisor.planning import make_plan
    from okno.advisor.request import Words, load_template, plan_request
    from okno.bench.tune import candidates
    from okno.cli.tune_save import check_saving, save_load

    loaded = load(given, os.environ)
    settings = loaded.settings
    wants = wants_of(settings)
    path = str(obtained(model, settings, wants, about_bits(loaded, wants, remark)).path)
    words = Words(
        model=path, prefer=settings.prefer, max_ttft=settings.max_ttft,
        min_tok_s=settings.min_tok_s, ctx=ctx, prompt_tokens=prompt_tokens, kv_type=kv_type,
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
        why = " ".join(report.plan.why)
        raise DoesNotFit(f"{why} `okno plan {quoted(model)}` says what to change.")
    for planned in chosen if save else ():
        check_saving(loaded, planned)
    tuned = _measured(report, chosen)
    try:
        _print(report, tuned, as_json)
    finally:  # a reader that left the pipe costs no measurement
        _keep(report, tuned)
    if save and tuned.best:
        save_load(loaded, tuned.best)
    return 0 if tuned.best else 1


def _measured(report: PlanReport, chosen: tuple[PlannedLoad, ...]) -> Tuned:
    """Run the candidates."""
    from okno.bench.tune import tune_model

    path = Path(report.subject.where)
    if not path.is_file():
        raise BadSetting(
            f"{report.subject.name} is not here ({report.subject.where}); only a model that can be "
            "loaded can be measured. Give the path of its GGUF file."
        )
    return asyncio.run(
        tune_model(path, chosen, report.plan.goal, report.subject.ctx_train, on_run=_say)
    )


def _keep(report: PlanReport, tuned: Tuned) -> None:
    """For `okno plan`: what came of the runs."""
    from okno.advisor.learnt import save_run
    from okno.store.database import Database

    def save() -> None:
        database, model = Database(), Path(report.subject.where)
        for run in tuned.runs:
            if run.measured and run.measured.speed:
                save_run(database, report.machine, model, run.measured.load, run.measured.speed)

    kept(save)


def _say(planned: PlannedLoad) -> None:
    window = planned.load.window
    typer.echo(f"Measuring batch {window.batch_size} x ctx {window.ctx:,} ...", err=True)


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
