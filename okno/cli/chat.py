"""`okno chat`: a conversation in the terminal, or one answer for a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Annotated

import typer

from okno.cli.chat_client import AnswerOptions, ChatClient, ServerInfo
from okno.cli.chat_session import Session
from okno.cli.options import GivenFlags, with_settings
from okno.cli.private_server import PrivateServer
from okno.cli.progress import loading
from okno.config.flag import Flag
from okno.config.load import Loaded, load
from okno.config.settings import DEFAULT_HOST, DEFAULT_PORT, flag_of
from okno.core.errors import BadSetting
from okno.inspect.models import DEMO, find_model, models_folder

DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
WINDOW_SETTINGS = ("batch_size", "ctx")
EPILOG = (
    "With PROMPT: one answer to stdout, its figures to stderr. In a conversation: /help, Ctrl-C "
    "stops the answer, Ctrl-D leaves."
)


@with_settings("model", "models_dir", *WINDOW_SETTINGS, "api_key")
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
            f"{DEFAULT_URL} if it serves the model, else a private one.",
            metavar="URL",
        ),
    ] = None,
    system: Annotated[str, typer.Option(help="System text.", metavar="TEXT")] = "",
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Most tokens per answer. Default: what the window leaves."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            min=0,
            max=10,
            help="0 always takes the likeliest token. Default: the server's; 0 for the demo model.",
        ),
    ] = None,
) -> int:
    """Chat with a model in the terminal, or get one answer."""
    loaded = load(given, os.environ)
    system = valid(system, "--system")
    for note in loaded.notes:
        _remark(note)
    question = _question(prompt)
    with _server(loaded, given, url) as (client, info):
        if temperature is None and info.model == DEMO:
            temperature = 0.0
        checked = loaded.settings.model if loaded.source("model") == "command line" else None
        options = AnswerOptions(checked if url else None, max_tokens, temperature)
        session = Session(client, info, options, _out, _remark, system)
        if question is not None:
            session.ask(question)
        else:
            _converse(session)
    return 0


def _question(prompt: str | None) -> str | None:
    """The one question, if this is not a conversation: the argument, or stdin."""
    if prompt is not None and prompt != "-":
        return valid(prompt, "PROMPT")
    if prompt is None and sys.stdin.isatty():
        return None
    text = valid(os.fsdecode(sys.stdin.buffer.read()), "stdin").strip()
    if not text:
        raise BadSetting("There is no question: stdin is empty. Give PROMPT, or pipe a text in.")
    return text


def valid(text: str, where: str) -> str:
    """`text`, if it was valid in the terminal's encoding (Python marks what was not)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSetting(f"The text of {where} is not valid UTF-8.", param=where) from None
    return text


@contextmanager
def _server(
    loaded: Loaded, given: GivenFlags, url: str | None
) -> Iterator[tuple[ChatClient, ServerInfo]]:
    """The server to talk to: the asked one, a running one with this model, or our own."""
    with ExitStack() as stack:
        if url is not None:
            _refuse_window(loaded)
            client = ChatClient(url, loaded.settings.api_key)
            stack.callback(client.close)
            yield client, client.info()
            return
        model = find_model(loaded.settings.model, models_folder(loaded.settings.models_dir))
        running = _running(loaded, model.name)
        if running is not None:
            stack.callback(running[0].close)
            _remark(f"Using the server at {running[1].url}.")
            yield running
            return
        client = _start_private(stack, given, model.name)
        yield client, client.info()


def _refuse_window(loaded: Loaded) -> None:
    """A running server has its window already."""
    for name in WINDOW_SETTINGS:
        if loaded.source(name) == "command line":
            raise BadSetting(
                f"{flag_of(name).long} is for a server started here; the one at --url has its "
                "window already. Leave one of the two out.",
                param=name,
            )


def _running(loaded: Loaded, model: str) -> tuple[ChatClient, ServerInfo] | None:
    """The okno server at the default address, if it serves `model` and no other window was asked
    for."""
    if any(name in loaded.given for name in WINDOW_SETTINGS):
        return None
    client = ChatClient(DEFAULT_URL, loaded.settings.api_key)
    info = client.probe()
    if info is not None and info.model == model:
        return client, info
    client.close()
    return None


def _start_private(stack: ExitStack, given: GivenFlags, model: str) -> ChatClient:
    server = stack.enter_context(PrivateServer(private_flags(given)))
    notes: list[str] = []
    with loading(f"Loading {model}") as on_progress:
        url = server.wait_ready(on_progress, notes.append)
    for note in notes:
        _remark(note)
    client = ChatClient(url, server.api_key)
    stack.callback(client.close)
    return client


def private_flags(given: GivenFlags) -> list[str]:
    """The flags of this command that the private server needs, as its command line."""
    flags: list[str] = []
    for name, value in given:
        flag: Flag = flag_of(name)
        if not flag.secret:
            flags += [flag.long, str(value.value)]
    return flags


def _converse(session: Session) -> None:
    """Read lines until /quit or Ctrl-D."""
    with suppress(ImportError):  # importing it gives input() line editing; not on Windows
        import readline  # noqa: F401
    info = session.info
    _remark(f"{info.model}, window {info.ctx:,} tokens. /help shows the commands, Ctrl-D leaves.")
    while True:
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
            if not session.line(line):
                return


def _out(text: str) -> None:
    """A piece of the answer, at once."""
    typer.echo(text, nl=False)
    sys.stdout.flush()


def _remark(text: str) -> None:
    """What is not the answer: dim, on stderr."""
    typer.secho(text, err=True, dim=True)
