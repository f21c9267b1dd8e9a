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
from okno.inspect.listing import Checkpoint, LocalModel
from okno.inspect.models import find_local, models_folder
from okno.inspect.source import LocalSource


def local_model(settings: ServeSettings) -> LocalModel | Checkpoint | None:
    """What is named, if it is here; None for the scripted engine, which has no model. Fetches and
    converts nothing. Raises ModelNotFound, ModelUnusable."""
    if settings.engine == "scripted":
        return None
    return find_local(settings.model, models_folder(settings.models_dir))


def with_own_settings(loaded: Loaded, model: LocalModel | Checkpoint | None) -> Loaded:
    """`loaded` with what comes with `model` below everything else, and notes that say so."""
    if model is None or not loaded.settings.model_defaults:
        return loaded
    if isinstance(model, Checkpoint):
        own = own_settings(model.path / model.path.name, {})
    else:
        own = own_settings(_published(model), _metadata(model.path))
    found = with_model(loaded, own.given)
    notes = [*loaded.notes, *own.notes]
    used = [f"{n} {short(g.value)}" for n, g in found.given.items() if g.source == "model"]
    if used:
        notes.append(f"Generation settings that come with the model: {', '.join(used)}.")
    return replace(found, notes=tuple(notes))


def _published(model: LocalModel) -> Path:
    """A file where it was published: what comes with it lies beside that."""
    if model.source is None:
        return model.path
    return model.source / model.path.name if model.source.is_dir() else model.source


def _metadata(path: Path) -> Mapping[str, object]:
    """The values of a GGUF header; none when it is unsound, which the worker will say."""
    try:
        with closing(LocalSource(path)) as source:
            return read_gguf_file(source).values
    except (ModelUnusable, ModelNotFound):
        return {}
