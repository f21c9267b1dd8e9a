"""Models for commands: found, fetched, made ready, with a person watching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from okno.cli.progress import working
from okno.cli.text import for_stderr
from okno.config.load import Loaded
from okno.config.settings import ServeSettings
from okno.convert.obtain import Listener, obtain
from okno.convert.progress import Progress
from okno.convert.wants import FourBit, Wants
from okno.core.commands import quoted
from okno.core.errors import BadSetting, DoesNotFit
from okno.inspect.listing import LocalModel
from okno.inspect.models import models_folder

if TYPE_CHECKING:
    from okno.advisor.request import PlanRequest
    from okno.convert.fetch_plan import FetchPlan

Say = Callable[[str], None]
BITS_SETTINGS = {8: "load_in_8bit", 4: "load_in_4bit"}


def remark(text: str) -> None:
    """A sentence to stderr."""
    typer.echo(for_stderr(f"note: {text}"), err=True)


def obtained(
    asked: str, settings: ServeSettings, wants: Wants | None = None, say: Say = remark
) -> LocalModel:
    """The model `asked` as a file to load, with a bar for what takes long.

    Raises what `obtain` raises; DoesNotFit before a download that would not run here.
    """
    with working() as progress:
        return obtained_with(asked, settings, wants or Wants(), say, progress)


def obtained_with(
    asked: str, settings: ServeSettings, wants: Wants, say: Say, progress: Progress
) -> LocalModel:
    """The same with another way to show progress."""

    def offered(plan: FetchPlan) -> None:
        _offered(plan, settings, wants, say)

    folder = models_folder(settings.models_dir)
    return obtain(asked, folder, wants, Listener(progress, say, offered))


def wants_of(settings: ServeSettings) -> Wants:
    """--load-in-8bit and --load-in-4bit. Raises BadSetting for both."""
    if settings.load_in_8bit and settings.load_in_4bit:
        raise BadSetting(
            "--load-in-8bit and --load-in-4bit contradict each other. Leave one of them out.",
            param="load_in_4bit",
        )
    if settings.load_in_4bit:
        return Wants(4, four_bit_here())
    return Wants(8 if settings.load_in_8bit else None)


def about_bits(loaded: Loaded, wants: Wants, say: Say) -> Say:
    """`say` that begins with the flag which asked for fewer bits, as it was spelled."""
    if wants.bits is None:
        return say
    spelled = loaded.given[BITS_SETTINGS[wants.bits]].spelled
    return lambda text: say(f"{spelled}: {text}")


def four_bit_here() -> FourBit:
    """What 4 bits are stored as on this machine."""
    from okno.advisor.four_bit import four_bit_type
    from okno.advisor.learnt import learnt
    from okno.inspect.hardware.machine import this_machine

    return four_bit_type(learnt(this_machine(), None).calibration)


def plan_of(settings: ServeSettings, wants: Wants) -> PlanRequest:
    """The question to the planner that loading with these settings is; its model comes later."""
    from okno.advisor.request import Words, load_template, plan_request
    from okno.inspect.hardware.overrides import Overrides

    words = Words(
        batch_size=settings.batch_size,
        ctx=settings.ctx, prefer=settings.prefer, max_ttft=settings.max_ttft,
        min_tok_s=settings.min_tok_s,
    )  # fmt: skip
    template = load_template(
        mmap=settings.mmap, gpu_layers=settings.gpu_layers, step_tokens=settings.step_tokens,
        flash_attention=settings.flash_attention,
    )  # fmt: skip
    request = plan_request(
        words, overrides=Overrides(), models_dir=settings.models_dir, template=template
    )
    return replace(request, wanted=wants.file_type)


def _offered(plan: FetchPlan, settings: ServeSettings, wants: Wants, say: Say) -> None:
    """Say what comes; stop before gigabytes that would not run."""
    from okno.cli.offer import offer_of

    offer = offer_of(plan, plan_of(settings, wants))
    if offer.fits is False:
        raise DoesNotFit(
            f"{' '.join(offer.lines)} Nothing was downloaded; "
            f"`okno pull {quoted(plan.reference.id)}` downloads it all the same."
        )
    for line in offer.lines:
        say(line)
