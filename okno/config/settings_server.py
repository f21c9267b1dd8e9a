"""Settings of the HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from okno.config.fields import SERVER, Part, Words
from okno.config.flag import Flag
from okno.config.network import (
    DEFAULT_DRAIN_TIMEOUT_S,
    DEFAULT_HOST,
    DEFAULT_PORT,
    allowed_host,
    allowed_origin,
    listen_host,
)


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(allowed_host, values))


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(allowed_origin, values))


class ServerPart(Part):
    """Where the server listens, who may call it, how much it takes."""

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
    trace: Annotated[
        Path | None,
        Flag(
            ("--trace",), SERVER, "file to which every step of the engine is written",
            "For ui.perfetto.dev or chrome://tracing: what ran, for whom, how long. At most 1 GiB.",
            metavar="FILE", in_file=False,
        ),
    ] = None  # fmt: skip
