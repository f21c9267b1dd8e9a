"""`okno depth`: where a wider window stops helping, on the user's own text."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from okno.cli.keeping import kept, remark
from okno.cli.obtaining import BITS_SETTINGS, about_bits, obtained, wants_of
from okno.cli.obtaining import remark as say
from okno.cli.options import GivenFlags, with_settings
from okno.config.load import load
from okno.core.errors import BadSetting
from okno.core.window import KVType
from okno.inspect.models import demo_model
from okno.plan.depth import WORTH_BITS, DepthCurve

if TYPE_CHECKING:
    from okno.bench.depth_job import Job
    from okno.bench.depth_text import DepthText

EPILOG = (
    "Under a window of N tokens the text is cut as a chat server cuts it: when the window is full "
    "its oldest quarter is dropped and the rest computed anew. docs/depth.md explains every figure."
)
SETTINGS = (
    "models_dir", *BITS_SETTINGS.values(), "threads", "gpu_layers", "mmap", "flash_attention",
)  # fmt: skip
COMPARED: tuple[KVType, ...] = ("bf16", "q8_0", "q4_0")


@with_settings(*SETTINGS)
def depth(
    given: GivenFlags,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or path.")],
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="UTF-8 text to read; `-` is stdin; form feeds part documents. Default: a text "
            "that ships (Russian and English).",
        ),
    ] = None,
    special: Annotated[
        bool, typer.Option(help="Read <|...|> in the text as the model's special tokens.")
    ] = False,
    ctx: Annotated[
        int | None,
        typer.Option(metavar="N", min=16, help="Widest window. Default: what it was trained for."),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Windows to compare. Default: doublings from 512."),
    ] = None,
    kv_types: Annotated[
        str, typer.Option(metavar="TYPES", help="KV types to compare with f16; `none` for none.")
    ] = "q8_0,q4_0",
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The same model in a finer quantisation (F16)."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=64, max=2**20, help="Tokens of the text to read.")
    ] = 32768,
    judged_tokens: Annotated[
        int, typer.Option(metavar="N", min=16, max=2**20, help="Late tokens for the windows.")
    ] = 2048,
    worth: Annotated[
        float, typer.Option(metavar="BITS", min=0.0, help="Bits per token that are worth a window.")
    ] = WORTH_BITS,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curves as FILE.svg or .png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Measure what a wider window buys in quality on a text, and what KV types cost."""
    from okno.bench.depth_job import Job
    from okno.bench.depth_plot import check_plot_path
    from okno.bench.depth_text import text_for

    loaded = load(given, os.environ)
    settings = loaded.settings
    wants = wants_of(settings)
    found = obtained(model, settings, wants, about_bits(loaded, wants, say))
    other = obtained(reference, settings) if reference else None
    if plot is not None:
        check_plot_path(plot)
    job = Job(
        model_path=str(found.path),
        name=found.name,
        documents=(),
        ctx=ctx,
        windows=_numbers(windows),
        kv_types=_kv_types(kv_types),
        reference_path=str(other.path) if other else "",
        reference_name=other.name if other else "",
        max_tokens=max_tokens,
        judged_tokens=judged_tokens,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        mmap=settings.mmap,
        flash_attention=settings.flash_attention,
    )
    source = text_for(text, special=special, is_demo=found.path == demo_model().path)
    _measure(job, source, worth=worth, plot=plot, as_json=as_json)


def _measure(
    job: Job, source: DepthText, *, worth: float, plot: Path | None, as_json: bool
) -> None:
    from okno.bench.depth import measure_depth
    from okno.bench.depth_plot import save_plot
    from okno.cli.depth_progress import progress

    with progress(job.name) as report:
        curve = measure_depth(job, source, report)
    try:
        _print(curve, worth, as_json=as_json)
    finally:  # a reader that left the pipe costs no measurement
        _keep(curve)
    if plot is not None:
        save_plot(curve, plot)
        typer.echo(f"Drawn: {plot}", err=True)


def _keep(curve: DepthCurve) -> None:
    """Store it for `okno plan`."""
    from okno.plan.depth_document import to_document
    from okno.store.database import Database
    from okno.store.depth_curves import save_depth

    if kept(lambda: save_depth(Database(), curve.model, curve.text, to_document(curve))):
        remark("Kept: `okno plan` shows it beside memory and speed.")


def _print(curve: DepthCurve, worth: float, *, as_json: bool) -> None:
    from okno.bench import depth_report
    from okno.bench.depth_plot import in_terminal

    if as_json:
        told = depth_report.as_json(curve, worth)
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2))
        return
    columns = shutil.get_terminal_size((80, 24)).columns
    typer.echo(in_terminal(curve, columns))
    typer.echo()
    typer.echo(depth_report.as_text(curve, worth, columns))


def _numbers(windows: str | None) -> tuple[int, ...] | None:
    """`512,1024` as numbers. Raises BadSetting."""
    if windows is None:
        return None
    parts = [part.strip().replace("_", "") for part in windows.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise BadSetting(
            f"--windows {windows!r}: give numbers of tokens with commas between them, such as "
            "512,1024,2048.",
            param="windows",
        )
    return tuple(int(part) for part in parts)


def _kv_types(asked: str) -> tuple[KVType, ...]:
    """`q8_0,q4_0` as KV types. Raises BadSetting."""
    if asked == "none":
        return ()
    found: list[KVType] = []
    for name in (part.strip() for part in asked.split(",")):
        known = [kv_type for kv_type in COMPARED if kv_type == name]
        if not known:
            raise BadSetting(
                f"--kv-types {asked!r}: {name!r} cannot be compared with f16; possible are "
                f"{', '.join(COMPARED)}, with commas between them, or none.",
                param="kv_types",
            )
        found += [one for one in known if one not in found]
    return tuple(found)
