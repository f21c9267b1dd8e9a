"""`okno plan`: what every window of a model costs and gives on this machine, before loading."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from okno.cli.obtaining import BITS_SETTINGS, wants_of
from okno.cli.options import GOAL_SETTINGS, GivenFlags, with_settings
from okno.cli.whatif import with_whatif
from okno.config.adapters import asked_adapters
from okno.config.load import Loaded, load
from okno.config.settings import ServeSettings, flag_of
from okno.core.errors import BadSetting
from okno.core.header import ModelHeader, TensorInfo
from okno.inspect.hardware.overrides import Overrides
from okno.inspect.models import models_folder
from okno.plan.goals import DEFAULT_MAX_TTFT_S, DEFAULT_MIN_TOK_S, DEFAULT_PROMPT_TOKENS, MEANING

if TYPE_CHECKING:
    from okno.advisor.beside import Beside

GIB = 2**30
EPILOG = (
    "Preferences: " + "; ".join(f"{name}: {text}" for name, text in MEANING.items()) + ". "
    f"Limits at auto: {DEFAULT_MAX_TTFT_S:g} s to the first token of the last of batch-size "
    f"prompts that arrive at once, {DEFAULT_MIN_TOK_S:g} tokens/s for each user (reading speed)."
)
SETTINGS = (
    "models_dir", *BITS_SETTINGS.values(), *GOAL_SETTINGS, "gpu_layers", "mmap", "flash_attention",
    "step_tokens", "lora", "draft", "speculate", "swap_space",
)  # fmt: skip
GOAL = "Goal"


@with_settings(*SETTINGS)
@with_whatif
def plan(
    given: GivenFlags,
    whatif: Overrides,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A path, a name in the models folder, `demo`, a model of the catalog "
            "(saiga2_13b), or a Hugging Face repository or file (only its header is read).",
        ),
    ] = "demo",
    quant: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Plan for this quantisation: q4_k_m, gptq-4bit, auto, ..."
        ),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Sequences decoded at once.")
    ] = None,
    ctx: Annotated[
        str | None,
        typer.Option("--ctx", "--ctx-size", "-c", metavar="N|auto", help="Tokens of one request."),
    ] = None,
    kv_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Of the KV cache; auto: f16, fewer bits where needed."),
    ] = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N", help=f"Length of a prompt. [default: {DEFAULT_PROMPT_TOKENS}]",
            rich_help_panel=GOAL,
        ),
    ] = None,
    fill: Annotated[
        str | None,
        typer.Option(
            metavar="N", rich_help_panel=GOAL,
            help="Tokens in each window when rates are judged. [default: those of the prompt]",
        ),
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Measure this machine first (90 s) [default: only if already done].",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> int:  # fmt: skip
    """Show what every window of a model costs and gives here, and pick the best, before loading."""
    from okno.advisor.planning import asked_fits, make_plan
    from okno.advisor.report import as_json as report_json
    from okno.advisor.request import Words, load_template, plan_request

    loaded = load(given, os.environ)
    settings = loaded.settings
    words = Words(
        model=model, quant=quant, batch_size=batch_size, ctx=ctx, kv_type=kv_type,
        prefer=settings.prefer, max_ttft=settings.max_ttft, min_tok_s=settings.min_tok_s,
        prompt_tokens=prompt_tokens, fill=fill,
    )  # fmt: skip
    template = load_template(
        mmap=settings.mmap, gpu_layers=settings.gpu_layers, step_tokens=settings.step_tokens,
        flash_attention=settings.flash_attention,
    )  # fmt: skip
    request = plan_request(
        words, overrides=whatif, models_dir=settings.models_dir, template=template,
        beside=_beside(settings),
    )  # fmt: skip
    request = replace(request, wanted=_wanted(loaded, quant))
    if calibrate:
        _calibrate(whatif, as_json=as_json)
    report = make_plan(request, use_calibration=calibrate is not False, with_words=True)
    if as_json:
        json.dump(report_json(report), sys.stdout, ensure_ascii=False, indent=2)
        typer.echo()
    else:
        from okno.cli.tables import console, print_plan

        print_plan(report, console())
    return 0 if asked_fits(report) else 1


def _wanted(loaded: Loaded, quant: str | None) -> str | None:
    """What --load-in-8bit or --load-in-4bit asks for; --quant says more than a settings file."""
    wanted = wants_of(loaded.settings).file_type
    if quant is None or wanted is None:
        return wanted
    for name in BITS_SETTINGS.values():
        if loaded.source(name) == "command line":
            raise BadSetting(
                f"{flag_of(name).long} and --quant both say how the weights are stored. Leave one "
                "of them out.",
                param="quant",
            )
    return None


def _beside(settings: ServeSettings) -> Beside:
    """What the settings load beside the model."""
    from okno.advisor.beside import Beside

    asked, models = asked_adapters(settings.lora), models_folder(settings.models_dir)

    def adapters(base: ModelHeader) -> tuple[TensorInfo, ...]:
        from okno.convert.adapter import tensors_of

        return tuple(tensor for one in asked for tensor in tensors_of(one.path, models, base))

    swap_bytes = int((settings.swap_space or 0) * GIB)
    if not asked:
        return Beside(
            draft=settings.draft or "", swap_bytes=swap_bytes, speculate=settings.speculate
        )
    return Beside(adapters, settings.draft or "", swap_bytes, settings.speculate)


def _calibrate(whatif: Overrides, *, as_json: bool) -> None:
    """Measure this machine now; its tables are for people."""
    if whatif.given:
        raise BadSetting("--calibrate measures this machine; it does not go with a what-if.")
    from okno.cli.calibrate import measure_and_keep
    from okno.cli.calibrate_table import print_calibration

    measure_and_keep(None if as_json else print_calibration)
