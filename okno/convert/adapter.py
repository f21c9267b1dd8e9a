"""`adapter_file`: from what a person writes for an adapter to a file that the engine loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import msgspec

import okno
from okno.convert.cache import cached_path, converted_folder, locked, sweep, written
from okno.convert.lora import CONFIG, WEIGHTS, opened, planned, write_adapter
from okno.convert.provenance import (
    CONVERTER,
    KEY,
    Provenance,
    origin_of,
    provenance_in,
    sha256_of,
)
from okno.convert.wants import Wants
from okno.core.adapter import Adapter
from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.header import ModelHeader, TensorInfo
from okno.core.paths import expanded
from okno.inspect.adapter import check_adapter, read_adapter
from okno.inspect.paths import kind_at

FLOAT_BYTES = 4


def adapter_file(asked: Adapter, models: Path, base: ModelHeader) -> Adapter:
    """`asked` with the path of a GGUF adapter that fits `base`: its own, or the one that its PEFT
    folder was written as, once. models: the models folder. Raises ModelNotFound, ModelUnusable,
    DiskFull."""
    path = located(asked.path, models)
    if path.is_dir():
        path = _converted(path, base)
    check_adapter(read_adapter(path), base)
    return replace(asked, path=str(path))


def tensors_of(asked: str, models: Path, base: ModelHeader) -> tuple[TensorInfo, ...]:
    """The tensors that the adapter `asked` has in GGUF, without writing them. Raises ModelNotFound,
    ModelUnusable."""
    path = located(asked, models)
    if path.is_dir():
        return planned(path, base)
    found = read_adapter(path)
    check_adapter(found, base)
    return tuple(half for pair in found.pairs for half in (pair.a, pair.b))


def located(asked: str, models: Path) -> Path:
    """The file or the PEFT folder that `asked` means: a path, or a name in the models folder.
    Raises ModelNotFound."""
    for place in (expanded(asked), *_named(asked, models)):
        if place.name in (CONFIG, WEIGHTS) and place.is_file():
            return place.parent
        if place.is_file() or (place / CONFIG).is_file():
            return place
        if place.is_dir():
            raise ModelNotFound(
                f"{place} is a folder without {CONFIG}, so it is no adapter in PEFT's format. Give "
                "a GGUF adapter, or the folder that PEFT saved."
            )
        if kind_at(place) == "other":
            raise ModelUnusable(
                f"{place} is neither a file nor a folder but a pipe or a device, which okno does "
                "not read. Give a GGUF adapter, or a folder that PEFT saved."
            )
    raise ModelNotFound(
        f"There is no adapter {asked[:200]!r}: neither such a path nor such a name in {models}. "
        "Give a GGUF adapter, or a folder that PEFT saved; one from a hub has to be downloaded "
        "first (hf download OWNER/NAME --local-dir FOLDER)."
    )


def _named(asked: str, models: Path) -> list[Path]:
    """Places inside the models folder only."""
    places = (models / asked, models / f"{asked}.gguf")
    return [place for place in places if ".." not in place.parts and place.is_relative_to(models)]


def _converted(folder: Path, base: ModelHeader) -> Path:
    """The kept file, if it was made from just this adapter for such a model; else made now."""
    _, stored, _ = opened(folder)
    origin, revision = origin_of(folder)
    files = {name: sha256_of(folder / name, Event()) for name in (CONFIG, WEIGHTS)}
    shape = f"lora for {base.architecture} of {base.n_layer} layers, {base.layers[0].head_dim}"
    made = Provenance(CONVERTER, okno.__version__, origin, revision, shape, files)
    kept = converted_folder()
    path = cached_path(kept, folder, f"{folder.name}-{base.architecture}-lora", Wants())
    sweep(kept)
    with locked(path):
        if _is_same(provenance_in(path), made):
            return path
        path.unlink(missing_ok=True)
        size = sum(tensor.n_values for tensor in stored.values()) * FLOAT_BYTES
        with written(path, size, f"Converting the adapter {folder.name}") as part:
            write_adapter(folder, base, part, {KEY: msgspec.json.encode(made).decode()})
    return path


def _is_same(found: Provenance | None, wanted: Provenance) -> bool:
    """Of the same files by the same converter, whatever okno's version."""
    return found is not None and msgspec.structs.replace(found, okno=wanted.okno) == wanted
