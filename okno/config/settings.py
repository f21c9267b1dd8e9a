"""The settings of `okno serve`: each declared once, in one of the parts.

Flags, environment names (`OKNO_` + the field's name), generation_config.yaml with its schema and
sample, help, docs/cli.md and docs/config.md are generated from these declarations; `load.py` fills
them. Frozen and strict: unknown names are refused.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from okno.config.fields import FILE, TAKEN
from okno.config.flag import Flag
from okno.config.network import DEFAULT_HOST, EVERY_ADDRESS, is_loopback
from okno.config.settings_generation import GenerationSettings
from okno.config.settings_load import LoadSettings
from okno.config.settings_server import ServerPart


class ServeSettings(ServerPart, GenerationSettings, LoadSettings):
    """Everything `okno serve` can be told. None means `auto` or not given."""

    config: Annotated[
        str | None,
        Field(min_length=1, max_length=4096),
        Flag(
            ("--config",), FILE, "settings file to read (YAML, or a generation_config.json)",
            "Default: generation_config.yaml in this folder, else in okno's user config folder. "
            "`none`: no file.", metavar="FILE", in_file=False,
        ),
    ] = None  # fmt: skip

    nowebui: Annotated[
        bool,
        Flag(
            ("--nowebui",), TAKEN, "accepted: this version has no web page yet",
            note="--nowebui: nothing to turn off, the web page comes with a later version.",
            in_file=False,
        ),
    ] = False  # fmt: skip
    api: Annotated[
        bool,
        Flag(("--api",), TAKEN, "accepted: the API is always on",
             note="--api: the OpenAI-compatible API is always on.",
             in_file=False),
    ] = False  # fmt: skip
    metrics: Annotated[
        bool,
        Flag(("--metrics",), TAKEN, "accepted: /metrics is always on",
             note="--metrics: /metrics is always on.",
             in_file=False),
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
    metadata: list[object] = ServeSettings.model_fields[name].metadata
    return next(item for item in metadata if isinstance(item, Flag))
