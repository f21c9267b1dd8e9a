"""What the HTTP layer is told: names, address, limits. Derived nowhere else, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from okno.advisor.beside import Beside
from okno.config.explain import Explained
from okno.config.network import (
    DEFAULT_DRAIN_TIMEOUT_S,
    DEFAULT_HOST,
    DEFAULT_PORT,
    is_loopback,
)
from okno.core.errors import BadSetting
from okno.core.request import Sampling

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a request gets for the fields that it leaves out. sampling.seed None: one is drawn for
    each request; its logit_bias and logprobs belong to requests. max_tokens None: until the window
    is full."""

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one HTTP server, checked where they are declared (config/settings.py); only the
    rule of the key is repeated for code that embeds the server. Sizes in bytes, times in seconds.

    model: the name reported; aliases: further names accepted in requests.
    allowed_hosts: Host names accepted besides loopback and `host`. allowed_origins: full origins
    ("https://page.example") that may call from a browser; "*" accepts every one.
    retry_after_s: the Retry-After of a 503 whose error brings none. keep_alive_s: silence after
    which a stream gets an SSE comment. stalled_reader_s: how long a client may leave its socket
    full before its request is cancelled. drain_timeout_s: how long SIGTERM waits for streams.
    defaults: of generation. config, config_file: what GET /okno/v1/config shows. models_dir: where
    plans look for models by name. model_path: of the served model, known before it is loaded; None
    when it has no file, or the engine alone knows it. beside: what is loaded with it.
    """

    model: str = "default"
    aliases: tuple[str, ...] = ()
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * MIB
    max_header_bytes: int = 32 * 1024
    max_headers: int = 128
    header_timeout_s: float = 15.0
    body_timeout_s: float = 60.0
    keep_alive_s: float = 15.0
    stalled_reader_s: float = 60.0
    drain_timeout_s: float = DEFAULT_DRAIN_TIMEOUT_S
    retry_after_s: float = 2.0
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    config: tuple[Explained, ...] = ()
    config_file: str | None = None
    models_dir: Path | None = None
    model_path: Path | None = None
    beside: Beside = field(default_factory=Beside)

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_key:
            raise BadSetting(
                f"Listening on {self.host} makes the server reachable from other machines, so it "
                "needs an API key: add --api-key KEY, or listen on 127.0.0.1.",
                param="api_key",
            )
