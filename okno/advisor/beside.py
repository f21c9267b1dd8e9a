"""What a plan counts beside the model: adapters, a draft model or the model's own prediction head,
swap space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from okno.core.errors import EngineFailed, ModelUnusable
from okno.core.header import ModelHeader, TensorInfo
from okno.core.load import Load
from okno.engines.protocol import WorkerOptions
from okno.plan.memory_extras import DraftMemory, Extras, draft_parts
from okno.plan.memory_head import HeadMemory
from okno.plan.prediction_head import uses_head

if TYPE_CHECKING:
    from okno.advisor.figures import Place


def no_adapters(_base: ModelHeader) -> tuple[TensorInfo, ...]:
    """None were asked for."""
    return ()


@dataclass(frozen=True, slots=True)
class Beside:
    """adapters: the tensors that the asked adapters have for a model; raises ModelNotFound,
    ModelUnusable. draft: a model's name or path, empty: none. swap_bytes: of main memory.
    speculate: who guesses, as a worker is told; with `auto` and `mtp` the model's head may."""

    adapters: Callable[[ModelHeader], tuple[TensorInfo, ...]] = no_adapters
    draft: str = ""
    swap_bytes: int = 0
    speculate: str = "auto"


def beside_of(options: WorkerOptions) -> Beside:
    """What a worker of `options` loads beside its model, all of it files that are here."""

    def adapters(base: ModelHeader) -> tuple[TensorInfo, ...]:
        from okno.engines.beside import adapter_tensors

        return tuple(adapter_tensors(options.adapters, base))

    loads = adapters if options.adapters else no_adapters
    return Beside(loads, options.draft_path, options.swap_bytes or 0, options.speculate)


@contextmanager
def extras_of(
    beside: Beside, header: ModelHeader, path: Path | None, place: Place,
    models_dir: Path | None, *, dry_run: bool,
) -> Iterator[Extras]:  # fmt: skip
    """What `beside` asks for next to the model of `header`. path: of its GGUF, if it is here.
    dry_run: the engine may be asked. Raises what finding the models raises."""
    adapters = beside.adapters(header)
    if uses_head(beside.speculate, header, has_draft_model=bool(beside.draft)):
        with _head_memory(header, place, path if dry_run else None) as draft:
            yield Extras(adapters, draft, beside.swap_bytes, beside.speculate == "auto")
    elif beside.draft:
        with _draft_memory(beside.draft, place, models_dir, dry_run=dry_run) as draft:
            yield Extras(adapters, draft, beside.swap_bytes)
    else:
        yield Extras(adapters, None, beside.swap_bytes)


@contextmanager
def _head_memory(header: ModelHeader, place: Place, path: Path | None) -> Iterator[DraftMemory]:
    """Of the model's own prediction head. Where the engine fails over it, the closed form."""
    closed = HeadMemory(header, place.machine)
    if path is None or not place.is_here:
        yield closed
        return
    from okno.engines.beside import head_memory

    with head_memory(path, header, place.machine) as told:

        def of(load: Load) -> Mapping[str, int]:
            try:
                return told(load)
            except (ModelUnusable, EngineFailed):
                return closed(load)

        yield of


@contextmanager
def _draft_memory(
    asked: str, place: Place, models_dir: Path | None, *, dry_run: bool
) -> Iterator[DraftMemory]:
    """Of the draft model in a cache of its own, in f16, with as many cells as the model's."""
    from okno.advisor.figures import memory_of
    from okno.advisor.model import find

    found = find(asked, models_dir)
    with memory_of(found.header, place, found.path if dry_run else None) as memory:

        def of(load: Load) -> Mapping[str, int]:
            own = replace(load, window=replace(load.window, kv_type="f16"), kv_unified=True)
            return draft_parts(memory.memory(own))

        yield of
