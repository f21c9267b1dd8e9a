"""The what-if flags, the same for every command that plans: a machine other than this one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from okno.inspect.hardware.asked import FIELDS, overrides_from
from okno.inspect.hardware.overrides import KINDS

SECTION = "What if"
OPTIONS: dict[str, tuple[str, str, str]] = {
    "memory": (
        "--memory", "SIZE",
        "Plan for this much memory, such as 8GB: of --device, else of the device in use, else RAM.",
    ),
    "device": (
        "--device", "KIND|NAME",
        f"Plan for this device: cpu, {', '.join(KINDS)}, or a known name such as 'RTX 4090'.",
    ),
    "bandwidth": (
        "--bandwidth", "RATE", "Plan for this memory bandwidth, such as 300GB/s.",
    ),
    "cores": ("--cores", "N", "Plan for this many CPU cores."),
    "free": (
        "--free", "SIZE", "Plan for this much of the memory being free [default: assumed].",
    ),
}  # fmt: skip


def with_whatif(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command the what-if flags; it gets what was used as `whatif: Overrides`.

    Goes directly above the function; `with_settings` and others go above it.
    """
    own = inspect.signature(command, eval_str=True).parameters.values()
    kept = [parameter for parameter in own if parameter.name != "whatif"]

    def run(**values: Any) -> int | None:
        asked = {name: values.pop(name, None) for name in FIELDS}
        return command(whatif=overrides_from(asked), **values)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    parameters = [*kept, *(_parameter(name) for name in FIELDS)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _parameter(name: str) -> inspect.Parameter:
    flag, metavar, text = OPTIONS[name]
    option = typer.Option(
        flag, metavar=metavar, help=text, rich_help_panel=SECTION, show_default=False
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )
