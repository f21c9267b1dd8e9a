"""The model that settings name, and the generation settings that come with it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from okno.config.given import short
from okno.config.load import Loaded, with_model
from okno.config.own import own_settings
from okno.config.settings import ServeSettings
from okno.core.errors import ModelNotFound, ModelUnusable
from okno.inspect.gguf import read_gguf_file
from okno.inspect.listing import LocalModel
from okno.inspect.models import find_model, models_folder
from okno.inspect.source import LocalSource


def model_of(settings: ServeSettings) -> LocalModel | None:
    """The model file; None for the scripted engine, which has none. Raises ModelNotFound,
    ModelUnusable."""
    if settings.engine == "scripted":
        return None
    return find_model(settings.model, models_folder(settings.models_dir))


def with_own_settings(loaded: Loaded, model: LocalModel | None) -> Loaded:
    """`loaded` with what comes with `model` below everything else, and notes that say so."""
    if model is None or not loaded.settings.model_defaults:
        return loaded
    own = own_settings(model.path, _metadata(model.path))
    found = with_model(loaded, own.given)
    notes = [*loaded.notes, *own.notes]
    used = [f"{n} {short(g.value)}" for n, g in found.given.items() if g.source == "model"]
    if used:
        notes.append(f"Generation settings that come with the model: {', '.join(used)}.")
    return replace(found, notes=tuple(notes))


def _metadata(path: Path) -> Mapping[str, object]:
    """The values of a GGUF header; none when it is unsound, which the worker will say."""
    try:
        with closing(LocalSource(path)) as source:
            return read_gguf_file(source).values
    except (ModelUnusable, ModelNotFound):
        return {}
