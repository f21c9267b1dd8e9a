"""Memory of what a worker loads beside its model, known before either is loaded: adapters, a draft
model or the model's own prediction head (the engine's dry run of the header), swap space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from okno.core.adapter import Adapter
from okno.core.errors import DoesNotFit
from okno.core.header import ModelHeader, TensorInfo
from okno.core.load import Load
from okno.core.machine import Machine
from okno.engines.dry_run import DryRun
from okno.engines.protocol import WorkerOptions
from okno.inspect.adapter import check_adapter, read_adapter
from okno.inspect.header import read_header
from okno.plan.memory import Anchored
from okno.plan.memory_extras import DraftMemory, Extras, draft_parts
from okno.plan.memory_head import HeadMemory
from okno.plan.words import size


@contextmanager
def extras_of(
    options: WorkerOptions, header: ModelHeader, machine: Machine, *, head: bool, serves: bool
) -> Iterator[Extras]:
    """What `options` ask for beside the model of `header`. head: its prediction head guesses.
    serves: this process must not die of a header. Raises ModelNotFound, ModelUnusable for a file
    that is not sound or an adapter of another model."""
    adapters = tuple(adapter_tensors(options.adapters, header))
    swap_bytes = options.swap_bytes or 0
    if not (head or options.draft_path):
        yield Extras(adapters, None, swap_bytes)
        return
    guessing = (
        head_memory(Path(options.model_path), header, machine)
        if head
        else draft_memory(options, machine, in_process=not serves)
    )
    with guessing as draft:
        yield Extras(adapters, draft, swap_bytes)


def adapter_tensors(adapters: tuple[Adapter, ...], base: ModelHeader) -> Iterator[TensorInfo]:
    """All tensors of GGUF adapters that fit `base`. Raises ModelNotFound, ModelUnusable."""
    for adapter in adapters:
        found = read_adapter(Path(adapter.path))
        check_adapter(found, base)
        yield from (half for pair in found.pairs for half in (pair.a, pair.b))


@contextmanager
def draft_memory(
    options: WorkerOptions, machine: Machine, *, in_process: bool
) -> Iterator[DraftMemory]:
    """What the draft model takes beside a load of the model. Raises ModelUnusable for a file that
    is no sound GGUF."""
    path = Path(options.draft_path)
    header = read_header(path)
    with DryRun(path, header, in_process=in_process) as dry_run:
        memory = Anchored(header, machine, dry_run.memory)

        def of(load: Load) -> Mapping[str, int]:
            window = replace(load.window, kv_type="f16")
            own = replace(
                load, window=window, kv_unified=True, flash_attention=options.flash_attention
            )
            return draft_parts(memory.memory(own))

        yield of


@contextmanager
def head_memory(path: Path, header: ModelHeader, machine: Machine) -> Iterator[DraftMemory]:
    """What the prediction head of the GGUF at `path` takes beside a load of the model. The engine
    is asked in a child: it ends its process over a head that is not as it expects."""
    with DryRun(path, header, head=True) as context:
        yield HeadMemory(header, machine, context)


def notes_beside(options: WorkerOptions, draft: Mapping[str, int]) -> tuple[str, ...]:
    """For people: what is there beside the model. draft: bytes by device of what guesses."""
    notes = [f"adapter {one.name}: scale {one.scale:g}" for one in options.adapters]
    for one in options.adapters:
        if left_out := read_adapter(Path(one.path)).left_out:
            notes.append(
                f"adapter {one.name}: {len(left_out)} vectors of norms in it are left out, because "
                "the engine does not apply them; answers may differ from those of the merged model"
            )
    if options.draft_path:
        name = Path(options.draft_path).stem
        notes.append(f"draft model {name}: {size(sum(draft.values()))} with its own KV cache")
    elif draft:
        notes.append(f"prediction head (MTP): {size(sum(draft.values()))} with its own KV cache")
    return tuple(notes)


def blaming(error: DoesNotFit, options: WorkerOptions, draft: Mapping[str, int]) -> DoesNotFit:
    """`error` with what else could be left out."""
    more = ""
    if draft and not options.draft_path:
        more += (
            f" The model's prediction head needs {size(sum(draft.values()))} of the memory; "
            "--speculate lookup goes without it."
        )
    elif draft:
        more += (
            f" The draft model {Path(options.draft_path).stem} needs {size(sum(draft.values()))} "
            "of the memory; leave out --draft, or give a smaller one."
        )
    if options.swap_bytes:
        more += f" --swap-space takes {size(options.swap_bytes)}; give less, or leave it out."
    return DoesNotFit(f"{error.message}{more}", param=error.info.param, **error.info.details)
