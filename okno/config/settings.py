"""The settings of `okno serve`: each declared once, here.

Flags, environment names (`OKNO_` + the field's name), help and docs/cli.md are generated from
these declarations; `load.py` fills them. Frozen and strict: unknown names are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from okno.config.flag import Flag
from okno.config.network import (
    DEFAULT_DRAIN_TIMEOUT_S,
    DEFAULT_HOST,
    DEFAULT_PORT,
    EVERY_ADDRESS,
    allowed_host,
    allowed_origin,
    is_loopback,
    listen_host,
)
from okno.core.window import MAX_BATCH_SIZE, KVType

MODEL, WINDOW, ENGINE, SERVER, TAKEN = "Model", "Window", "Engine", "Server", "Taken from others"


def _auto(value: object) -> object:
    """The word `auto` leaves the choice to okno: None."""
    return None if value == "auto" else value


def _layers(value: object) -> object:
    """`auto`, `all` and `max` put every layer on the GPU (if there is one): -1."""
    return -1 if value in ("auto", "all", "max") else value


def _words(value: object) -> object:
    """A comma-separated text (environment) as a list."""
    if not isinstance(value, str):
        return value
    return [word.strip() for word in value.split(",") if word.strip()]


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(allowed_host, values))


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(allowed_origin, values))


Auto = BeforeValidator(_auto)
Words = BeforeValidator(_words)


class ServeSettings(BaseModel):
    """Everything `okno serve` can be told. None means `auto` or not given."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: Annotated[
        str,
        Field(min_length=1, max_length=4096),
        Flag(
            ("--model", "-m"), MODEL, "model to load",
            "A path to a .gguf file, a name in the models folder, or `demo` (ships with okno).",
            metavar="NAME|PATH",
        ),
    ] = "demo"  # fmt: skip
    models_dir: Annotated[
        Path | None,
        Flag(
            ("--models-dir",), MODEL, "models folder",
            "Default: `models` in okno's user data folder.", metavar="FOLDER",
        ),
    ] = None  # fmt: skip
    alias: Annotated[
        str | None,
        Field(max_length=256, pattern=r"^[^\p{C}]+$"),
        Flag(
            ("--alias",), MODEL, "name under which the model is served",
            "Default: the name of the file.", metavar="NAME", also=("--served-model-name",),
        ),
    ] = None  # fmt: skip
    load_in_8bit: Annotated[
        bool,
        Flag(
            ("--load-in-8bit",), MODEL, "ask for 8-bit weights",
            "A GGUF file is served as it is stored (F16, Q8_0, Q4_0, ...): okno does not "
            "quantise while loading yet.",
        ),
    ] = False  # fmt: skip
    load_in_4bit: Annotated[
        bool,
        Flag(
            ("--load-in-4bit",), MODEL, "ask for 4-bit weights",
            "A GGUF file is served as it is stored (F16, Q8_0, Q4_0, ...): okno does not "
            "quantise while loading yet.",
        ),
    ] = False  # fmt: skip

    batch_size: Annotated[
        int | None,
        Field(ge=1, le=MAX_BATCH_SIZE),
        Auto,
        Flag(
            ("--batch-size",), WINDOW, "sequences decoded at once",
            "1: one request at a time. The rest wait in a fair queue.", metavar="N|auto",
            also=("--parallel", "-np", "--n-parallel", "--max-num-seqs"),
            too_big="In text-generation-webui and llama-server --batch-size means prompt tokens "
            "per step; here that is --step-tokens.",
        ),
    ] = None  # fmt: skip
    ctx: Annotated[
        int | None,
        Field(ge=16, le=16_777_216),
        Auto,
        Flag(
            ("--ctx", "--ctx-size", "-c"), WINDOW,
            "tokens one request may see, prompt and answer together",
            "Never divided by the batch size.", metavar="N|auto",
            also=("--n-ctx", "--max-seq-len", "--max-model-len"),
        ),
    ] = None  # fmt: skip
    kv_pool: Annotated[
        int | None,
        Field(ge=16, le=2_147_483_647),
        Auto,
        Flag(
            ("--kv-pool",), WINDOW, "tokens of KV cache shared by all sequences",
            "auto: batch size x ctx.", metavar="N|auto",
        ),
    ] = None  # fmt: skip
    kv_type: Annotated[
        KVType,
        Flag(
            ("--kv-type",), WINDOW, "number format of the KV cache, keys and values alike",
            metavar="TYPE",
            also=("--cache-type", "--cache-type-k", "--cache-type-v", "-ctk", "-ctv"),
        ),
    ] = "f16"  # fmt: skip
    step_tokens: Annotated[
        int,
        Field(ge=8, le=65_536),
        Flag(
            ("--step-tokens",), WINDOW, "most tokens computed in one step",
            "Longer prompts are computed in pieces of this size.", metavar="N",
            also=("--ubatch-size", "-ub", "--n-batch", "--n-ubatch", "--max-num-batched-tokens"),
        ),
    ] = 256  # fmt: skip
    prefix_cache: Annotated[
        bool,
        Flag(
            ("--prefix-cache/--no-prefix-cache",), WINDOW,
            "keep finished conversations in the KV cache until their place is needed",
        ),
    ] = True  # fmt: skip

    threads: Annotated[
        int | None,
        Field(ge=1, le=4096),
        Auto,
        Flag(
            ("--threads", "-t"), ENGINE, "CPU threads",
            "auto: every usable core; one for a tiny model.",
            metavar="N|auto",
        ),
    ] = None  # fmt: skip
    gpu_layers: Annotated[
        int,
        Field(ge=-1, le=100_000),
        BeforeValidator(_layers),
        Flag(
            ("--gpu-layers", "-ngl"), ENGINE, "layers put on the GPU",
            "-1 or all: every layer, if there is a GPU.", metavar="N|all",
            also=("--n-gpu-layers",),
        ),
    ] = -1  # fmt: skip
    mmap: Annotated[
        bool,
        Flag(
            ("--mmap/--no-mmap",), ENGINE, "map the model file into memory instead of reading it",
        ),
    ] = False  # fmt: skip
    flash_attention: Annotated[
        Literal["auto", "on", "off"],
        Flag(
            ("--flash-attention", "-fa"), ENGINE, "fused attention kernels",
            metavar="auto|on|off", also=("--flash-attn",),
        ),
    ] = "auto"  # fmt: skip
    hang_timeout: Annotated[
        float,
        Field(gt=0, le=86_400, allow_inf_nan=False),
        Flag(
            ("--hang-timeout",), ENGINE,
            "seconds without a step before the engine counts as hung and is restarted",
            "Streams go on after the restart.", metavar="SECONDS",
        ),
    ] = 60.0  # fmt: skip
    engine: Annotated[
        Literal["llamacpp", "scripted"],
        Flag(("--engine",), ENGINE, "engine; `scripted` loads no model", metavar="NAME",
             hidden=True),
    ] = "llamacpp"  # fmt: skip
    script: Annotated[
        str,
        Flag(("--script",), ENGINE, "what the scripted engine does", metavar="TEXT", hidden=True),
    ] = ""

    host: Annotated[
        str | None,
        BeforeValidator(listen_host),
        Field(max_length=255, pattern=r"^[A-Za-z0-9._:%-]+$"),
        Flag(
            ("--host",), SERVER, "address to listen on",
            f"Beyond this machine only with an API key. Default: {DEFAULT_HOST}.",
            metavar="ADDRESS",
        ),
    ] = None  # fmt: skip
    port: Annotated[
        int,
        Field(ge=0, le=65_535),
        Flag(
            ("--port",), SERVER, "port to listen on", "0: any free one.", metavar="N",
            also=("--listen-port",),
        ),
    ] = DEFAULT_PORT  # fmt: skip
    listen: Annotated[
        bool,
        Flag(
            ("--listen",), SERVER, "listen on every address (0.0.0.0)",
            "Demands an API key.",
        ),
    ] = False  # fmt: skip
    api_key: Annotated[
        str | None,
        Field(min_length=1, max_length=4096),
        Flag(
            ("--api-key",), SERVER, "key that clients must send as a Bearer token",
            "OKNO_API_KEY keeps it out of the list of processes.", metavar="KEY", secret=True,
        ),
    ] = None  # fmt: skip
    allowed_host: Annotated[
        tuple[str, ...],
        Words,
        AfterValidator(_hosts),
        Flag(
            ("--allowed-host",), SERVER, "further name under which the server may be addressed",
            "May be given several times.", metavar="NAME",
        ),
    ] = ()  # fmt: skip
    allowed_origin: Annotated[
        tuple[str, ...],
        Words,
        AfterValidator(_origins),
        Flag(
            ("--allowed-origin",), SERVER, "further web origin whose pages may call the server",
            "May be given several times.", metavar="ORIGIN",
        ),
    ] = ()  # fmt: skip
    queue_limit: Annotated[
        int,
        Field(ge=0, le=1_000_000),
        Flag(
            ("--queue-limit",), SERVER, "requests that may wait",
            "One more is refused at once with 503 and Retry-After.", metavar="N",
        ),
    ] = 256  # fmt: skip
    drain_timeout: Annotated[
        float,
        Field(ge=0, le=86_400, allow_inf_nan=False),
        Flag(
            ("--drain-timeout",), SERVER, "seconds that running requests get to finish when the "
            "server is stopped", metavar="SECONDS",
        ),
    ] = DEFAULT_DRAIN_TIMEOUT_S  # fmt: skip
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Flag(("--log-level",), SERVER, "how much is logged", metavar="debug|info|warning|error"),
    ] = "warning"

    nowebui: Annotated[
        bool,
        Flag(
            ("--nowebui",), TAKEN, "accepted: this version has no web page yet",
            note="--nowebui: nothing to turn off, the web page comes with a later version.",
        ),
    ] = False  # fmt: skip
    api: Annotated[
        bool,
        Flag(("--api",), TAKEN, "accepted: the API is always on",
             note="--api: the OpenAI-compatible API is always on."),
    ] = False  # fmt: skip
    metrics: Annotated[
        bool,
        Flag(("--metrics",), TAKEN, "accepted: /metrics is always on",
             note="--metrics: /metrics is always on."),
    ] = False  # fmt: skip

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Settings that contradict each other are refused together."""
        if self.ctx and self.kv_pool and self.kv_pool < self.ctx:
            raise ValueError(
                f"--kv-pool {self.kv_pool} is smaller than --ctx {self.ctx}: not even one request "
                f"would fit. Give at least {self.ctx}, or leave --kv-pool out."
            )
        if self.listen and self.host is not None and is_loopback(self.host):
            raise ValueError(
                f"--listen means every address ({EVERY_ADDRESS}) and --host {self.host} only this "
                "machine: they contradict each other. Leave one of them out."
            )
        return self

    @property
    def address(self) -> str:
        """The address to listen on: the given one, else every address with `--listen`."""
        return self.host or (EVERY_ADDRESS if self.listen else DEFAULT_HOST)


def flag_of(name: str) -> Flag:
    """The flag of field `name`."""
    metadata: list[Any] = ServeSettings.model_fields[name].metadata
    return next(item for item in metadata if isinstance(item, Flag))
