"""The commands and how they are found: each in a module of its own, imported when it is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import okno
from okno.cli.text import for_stderr
from okno.core.errors import BadSetting, OknoError

COMMANDS = {
    "serve": "Serve a model over HTTP, OpenAI-compatible.",
    "chat": "Chat with a model in the terminal, or get one answer.",
    "resize": "Change batch size, ctx, KV type or KV pool of a running server.",
    "pull": "Download a model from the Hugging Face hub: first its size and whether it runs here.",
    "models": "List the models on this machine.",
    "rm": "Remove a model from this machine.",
    "convert": "Convert a checkpoint (safetensors, GPTQ, AWQ) to a GGUF file.",
    "plan": "Show what every window of a model costs and gives here, and pick the best.",
    "recommend": "Rank the models of the catalog by what this hardware really gives.",
    "tune": "Measure the best few windows of a model on this machine and pick one.",
    "tokens": "Count words, characters and tokens of a text by a model's own tokenizer.",
    "hardware": "Show processor, memory and accelerators: total and free, and what limits them.",
    "calibrate": "Measure what this machine is fast at, for plans of any model.",
    "depth": "Measure what a wider window buys in quality on a text.",
    "bench": "Measure: okno's own predictions on this machine, or any server under load.",
    "config": "Show, explain and change the settings and generation_config.yaml.",
    "version": "Show the versions of okno and of what it stands on.",
}
CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
}
USAGE_ERROR = 2


class LazyGroup(TyperGroup):
    """A group whose listed commands are placeholders; the real one is imported to be run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else placeholder, rest


def run(args: list[str]) -> int:
    """Run `okno` with `args`; the exit code. Errors are printed, never raised."""
    return _run(build(), args, "okno")


def run_command(name: str, args: list[str], *, program: str) -> int:
    """Run one command under the name `program`."""
    return _run(load_command(name), args, program)


def build() -> Any:
    """The click group of `okno`."""
    app = typer.Typer(
        cls=LazyGroup,
        help="okno: a local LLM server that knows its window (batch size and context).",
        add_completion=False,
        rich_markup_mode=None,
        context_settings=CONTEXT,
    )
    app.callback(invoke_without_command=True)(_root)
    for name, text in COMMANDS.items():
        app.command(name, help=text)(_placeholder)
    return typer.main.get_command(app)


def load_command(name: str) -> Any:
    """The click command `name`, imported now. Its module has a function of that name, or a table
    SUBCOMMANDS of functions."""
    from okno.cli.options import SectionedCommand

    module = import_module(f"okno.cli.{name}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)
    if hasattr(module, "SUBCOMMANDS"):
        app.info.help = COMMANDS[name]
        app.info.epilog = getattr(module, "EPILOG", None)
        app.callback(invoke_without_command=True)(_group)
        for word, function in module.SUBCOMMANDS.items():
            settings = getattr(module, "CONTEXTS", {}).get(word)
            app.command(word, cls=SectionedCommand, context_settings=settings)(function)
        return typer.main.get_command(app)
    app.command(name, cls=SectionedCommand, epilog=getattr(module, "EPILOG", None))(
        getattr(module, name)
    )
    return typer.main.get_command(app)


def _placeholder() -> None:
    """Stands for a command in the list."""


def _group(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"okno {okno.__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _run(command: Any, args: list[str], program: str) -> int:
    try:
        code = command.main(args, prog_name=program, standalone_mode=False)
    except OknoError as error:
        _say(f"error: {error.message}")
        return USAGE_ERROR if isinstance(error, BadSetting) else 1
    except typer.TyperException as error:
        return _usage_error(error, program)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader of a pipe left: nothing more to say, nor to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _usage_error(error: typer.TyperException, program: str) -> int:
    """Print what is wrong, the nearest right option, and where to read more."""
    context = getattr(error, "ctx", None)
    unknown = getattr(error, "option_name", None) if hasattr(error, "possibilities") else None
    near = _nearest(unknown, context) if unknown and context else []
    message = error.message if unknown else error.format_message()
    hint = f". Did you mean {near[0]}?" if near else ""
    _say(f"error: {message}{hint}")
    _say(f"Options: {context.command_path if context else program} --help")
    return error.exit_code


def _nearest(unknown: str, context: Any) -> list[str]:
    from okno.cli.options import nearest_options

    return nearest_options(unknown, context.command.get_params(context))


def _say(line: str) -> None:
    typer.echo(for_stderr(line), err=True)
