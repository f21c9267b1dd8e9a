"""`okno chat`: a conversation in the terminal, or one answer for a pipe."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from okno.cli.chat_client import AnswerOptions
from okno.cli.chat_session import Session
from okno.cli.interrupts import Interrupts
from okno.cli.options import GivenFlags, with_settings
from okno.cli.partner import LOAD_SETTINGS, local_url, partner
from okno.cli.text import for_stderr
from okno.config.load import Loaded, load
from okno.config.settings import ServeSettings
from okno.core.errors import BadSetting

EPILOG = (
    "With PROMPT: one answer to stdout, its figures to stderr. In a conversation: /help, Ctrl-C "
    "stops the answer, Ctrl-D leaves."
)


@with_settings("model", "models_dir", *LOAD_SETTINGS, "api_key", "config")
def chat(
    given: GivenFlags,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="One question; `-` reads it from stdin.", show_default=False, metavar="[PROMPT]"
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Talk to this running server. Default: the one at "
            f"{local_url(ServeSettings())} (or OKNO_HOST, OKNO_PORT) if it serves the model, else "
            "a private one.",
            metavar="URL",
        ),
    ] = None,
    system: Annotated[str, typer.Option(help="System text.", metavar="TEXT")] = "",
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            "-n",
            "--n-predict",
            min=1,
            metavar="N",
            help="Most tokens per answer. Default: what the window leaves.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            "--temp",
            metavar="T",
            min=0,
            max=10,
            help="0 always takes the likeliest token. Default: the server's; "
            "0 for a private server with the demo model.",
        ),
    ] = None,
) -> int:
    """Chat with a model in the terminal, or get one answer."""
    loaded = load(given, os.environ)
    system = valid(system, "--system")
    for note in loaded.notes:
        _remark(note)
    question = _question(prompt)
    with partner(loaded, given, url, _remark) as found:
        if temperature is None and found.greedy and _is_free(loaded):
            temperature = 0.0
        checked = loaded.settings.model if loaded.source("model") == "command line" else None
        options = AnswerOptions(checked if url else None, max_tokens, temperature)
        interrupts = Interrupts()
        session = Session(
            found.client, found.info, options, _out, _remark, system, larger=found.larger,
            check_interrupts=interrupts.check,
        )  # fmt: skip
        if question is not None:
            session.ask_once(question)
        else:
            interrupts.install()
            _converse(session, interrupts)
    return 0


def _is_free(loaded: Loaded) -> bool:
    """Nobody set how the next token is drawn."""
    return loaded.source("temperature") == loaded.source("do_sample") == "default"


def _question(prompt: str | None) -> str | None:
    """The one question, if this is not a conversation: the argument, or stdin."""
    if prompt is not None and prompt != "-":
        return _not_empty(valid(prompt, "PROMPT"), "PROMPT")
    if prompt is None and sys.stdin.isatty():
        return None
    return _not_empty(valid(os.fsdecode(sys.stdin.buffer.read()), "stdin").strip(), "stdin")


def _not_empty(text: str, where: str) -> str:
    if not text.strip():
        raise BadSetting(f"There is no question: {where} is empty. Give PROMPT, or pipe a text in.")
    return text


def valid(text: str, where: str) -> str:
    """`text`, if it was valid in the terminal's encoding (Python marks what was not)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSetting(f"The text of {where} is not valid UTF-8.", param=where) from None
    return text


def _converse(session: Session, interrupts: Interrupts) -> None:
    """Read lines until /quit or Ctrl-D."""
    with suppress(ImportError):  # importing it gives input() line editing; not on Windows
        import readline  # noqa: F401
    info = session.info
    _remark(f"{info.model}, window {info.ctx:,} tokens. /help shows the commands, Ctrl-D leaves.")
    while True:
        interrupts.forget()
        try:
            line = valid(input("> "), "this line")
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            _remark("(Ctrl-D leaves)")
        except (BadSetting, UnicodeDecodeError):
            _remark("error: this line is not valid UTF-8.")
        else:
            interrupts.forget()
            if not session.line(line):
                return


def _out(text: str) -> None:
    """A piece of the answer, at once."""
    typer.echo(text, nl=False)
    sys.stdout.flush()


def _remark(text: str) -> None:
    """What is not the answer: dim, on stderr."""
    typer.secho(for_stderr(text), err=True, dim=True)
