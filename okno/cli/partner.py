"""Who answers in `okno chat`: the asked server, a running one with this model, or our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from okno.cli.chat_client import ChatClient, ServerInfo
from okno.cli.obtaining import about_bits, obtained, wants_of
from okno.cli.options import GivenFlags
from okno.cli.private_server import PrivateServer
from okno.cli.progress import loading
from okno.config.flag import Flag
from okno.config.load import Loaded
from okno.config.settings import ServeSettings, flag_of
from okno.core.errors import BadSetting
from okno.inspect.listing import LocalModel
from okno.inspect.models import demo_model

# what a server that runs has decided
LOAD_SETTINGS = ("load_in_8bit", "load_in_4bit", "lora", "batch_size", "ctx")
ASKED_NOW = ("command line", "environment")  # a file speaks of every server, the running one too
FROM_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Partner:
    """A server to talk to. larger: what gives more room than its window. greedy: it is ours and
    serves the demo that ships, whose best answers are its likeliest ones."""

    client: ChatClient
    info: ServerInfo
    larger: str = "a larger --ctx"
    greedy: bool = False


@contextmanager
def partner(loaded: Loaded, given: GivenFlags, url: str | None, say: Say) -> Iterator[Partner]:
    """The server for these settings; one started here ends with the block."""
    with ExitStack() as stack:
        yield _found(stack, loaded, given, url, say)


def _found(
    stack: ExitStack, loaded: Loaded, given: GivenFlags, url: str | None, say: Say
) -> Partner:
    if url is not None:
        return _asked(stack, loaded, url)
    wants = wants_of(loaded.settings)
    model = obtained(loaded.settings.model, loaded.settings, wants, about_bits(loaded, wants, say))
    running = _running(stack, loaded, model.name)
    if running is not None:
        say(f"Using the server at {running.info.url}.")
        return running
    return _private(stack, given, model, say)


def local_url(settings: ServeSettings) -> str:
    """Where `okno serve` with these settings is reached from this machine."""
    host = FROM_HERE.get(settings.address, settings.address)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def private_flags(given: GivenFlags) -> list[str]:
    """The flags of this command that the private server needs, as its command line."""
    flags: list[str] = []
    for name, value in given:
        flag: Flag = flag_of(name)
        if flag.secret:
            continue
        if isinstance(value.value, bool):
            flags.append(flag.spelled(value.value))
            continue
        values = value.value if isinstance(value.value, list) else [value.value]
        flags += [word for one in values for word in (flag.long, str(one))]
    return flags


def _asked(stack: ExitStack, loaded: Loaded, url: str) -> Partner:
    """The server at --url. It has its window and its adapters already."""
    for name in LOAD_SETTINGS:
        if loaded.source(name) == "command line":
            raise BadSetting(
                f"{flag_of(name).long} is for a server started here; the one at --url is "
                "loaded already. Leave one of the two out.",
                param=name,
            )
    if_gone = "Start one with `okno serve`, or leave out --url."
    client = ChatClient(url, loaded.settings.api_key, if_gone=if_gone)
    stack.callback(client.close)
    return Partner(client, client.info(), larger="a server with a larger --ctx")


def _running(stack: ExitStack, loaded: Loaded, model: str) -> Partner | None:
    """The okno server where `okno serve` would listen, if it serves `model` and nothing else
    was asked for."""
    if any(loaded.source(name) in ASKED_NOW for name in LOAD_SETTINGS):
        return None
    if_gone = "It was there a moment ago; run the command again."
    client = ChatClient(local_url(loaded.settings), loaded.settings.api_key, if_gone=if_gone)
    stack.callback(client.close)
    info = client.probe()
    return Partner(client, info) if info is not None and info.model == model else None


def _private(stack: ExitStack, given: GivenFlags, model: LocalModel, say: Say) -> Partner:
    server = stack.enter_context(PrivateServer(private_flags(given)))
    notes: list[str] = []
    with loading(f"Loading {model.name}") as on_progress:
        url = server.wait_ready(on_progress, notes.append)
    for note in notes:
        say(note)
    if_gone = "The private server of this chat has ended; start `okno chat` again."
    client = ChatClient(url, server.api_key, if_gone=if_gone)
    stack.callback(client.close)
    return Partner(client, client.info(), greedy=model.path == demo_model().path)
