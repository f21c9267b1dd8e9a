"""What the child of `okno depth` does: one uncut pass, the same text under narrower windows, and
variants (KV types, a reference model) side by side with it.

Memory is bounded: of each context only one chunk of logits exists at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from okno.bench.depth_engine import DepthModel, Reader, chunks
from okno.bench.depth_job import Job, Measured, Stage, VariantRun, WindowRun
from okno.bench.depth_math import Floats, Ids, Logits, agreement, divergences, losses
from okno.bench.depth_passes import Passes, cut_passes
from okno.core.errors import BadSetting, DoesNotFit
from okno.plan.depth_cut import Slide, slides

Report = Callable[[Stage, float], None]


def measure(job: Job, report: Report) -> Measured:
    """Raises ModelUnusable, BadSetting, DoesNotFit or EngineFailed."""
    model = DepthModel(job, job.model_path, job.name, lambda part: report("load", part))
    passes = cut_passes(job, model.vocab, model.model.ctx_train)
    reference = _reference(job, model, passes, report)
    with _readers(job, model, reference, passes) as readers:
        sweep = Sweep(readers, passes, model.rows, report)
        sweep.run()
        windows = _windows(readers.main, passes, sweep.losses, model.rows, report)
    return Measured(
        ctx_train=model.model.ctx_train,
        tokens=tuple(tokens.tobytes() for tokens in passes.tokens),
        losses=tuple(map(_packed, sweep.losses)),
        judged_from=tuple(passes.judged_from),
        windows=tuple(windows),
        kv_types=tuple(pair.packed() for pair in sweep.pairs if pair.reference == "f16"),
        weights=next((pair.packed() for pair in sweep.pairs if pair.reference != "f16"), None),
        notes=(*passes.notes, *readers.notes),
    )


# Contexts ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Readers:
    """The f16 context of the model, its other KV types by name, and that of the reference."""

    main: Reader
    kv_types: dict[str, Reader] = field(default_factory=dict)
    reference: tuple[str, Reader] | None = None
    notes: list[str] = field(default_factory=list)


@contextmanager
def _readers(
    job: Job, model: DepthModel, reference: DepthModel | None, passes: Passes
) -> Iterator[Readers]:
    """Contexts as wide as the longest pass. A KV type the model cannot have becomes a note."""
    ctx = max(map(len, passes.tokens))
    found = Readers(Reader(model, ctx))
    opened = [found.main]
    try:
        if reference is not None:
            found.reference = (reference.name, Reader(reference, ctx))
            opened.append(found.reference[1])
        _open_kv_types(job, model, ctx, found)
        opened.extend(found.kv_types.values())
        yield found
    finally:
        for reader in opened:
            reader.close()


def _open_kv_types(job: Job, model: DepthModel, ctx: int, found: Readers) -> None:
    if model.keeps_only_state:
        if job.kv_types:
            found.notes.append(
                f"{model.name} ({model.model.architecture}) is recurrent: it keeps a state instead "
                "of a KV cache, so there are no KV types to compare."
            )
        return
    for kv_type in job.kv_types:
        try:
            found.kv_types[kv_type] = Reader(model, ctx, kv_type)
        except DoesNotFit as error:
            found.notes.append(f"KV type {kv_type} was not compared. {error.message}")


def _reference(job: Job, model: DepthModel, passes: Passes, report: Report) -> DepthModel | None:
    """The reference model. Raises BadSetting if it reads the text as other tokens."""
    if not job.reference_path:
        return None
    reference = DepthModel(
        job, job.reference_path, job.reference_name, lambda part: report("reference", part)
    )
    sizes = (model.vocab.n_tokens, reference.vocab.n_tokens)
    theirs = cut_passes(job, reference.vocab, model.model.ctx_train)
    same = len(passes.tokens) == len(theirs.tokens) and all(
        np.array_equal(a, b) for a, b in zip(passes.tokens, theirs.tokens, strict=True)
    )
    if sizes[0] != sizes[1] or not same:
        raise BadSetting(
            f"{reference.name} cannot be the reference of {model.name}: their tokens differ "
            f"({sizes[0]:,} and {sizes[1]:,} in the vocabularies). Give the same model in a finer "
            "quantisation, such as its F16 file.",
            param="reference",
        )
    return reference


# The uncut pass ---------------------------------------------------------------------------------


class Pair:
    """A variant compared with its reference, chunk by chunk."""

    def __init__(self, name: str, reference: str) -> None:
        self.name, self.reference = name, reference
        self._kl: list[list[Floats]] = []
        self._lost: list[list[Floats]] = []
        self._agree: list[list[NDArray[np.uint8]]] = []

    def begin_pass(self) -> None:
        self._kl.append([])
        self._lost.append([])
        self._agree.append([])

    def add(self, reference: Logits, other: Logits, targets: Ids) -> None:
        """One chunk of both, and the tokens that really followed."""
        self._kl[-1].append(divergences(reference, other))
        self._lost[-1].append(losses(other, targets) - losses(reference, targets))
        self._agree[-1].append(agreement(reference, other))

    def packed(self) -> VariantRun:
        return VariantRun(
            self.name,
            self.reference,
            kl=tuple(_packed(np.concatenate(part)) for part in self._kl),
            lost=tuple(_packed(np.concatenate(part)) for part in self._lost),
            agree=tuple(np.concatenate(part).tobytes() for part in self._agree),
        )


class Sweep:
    """All contexts read the same chunks side by side."""

    def __init__(self, readers: Readers, passes: Passes, rows: int, report: Report) -> None:
        self._readers = readers
        self._passes = passes
        self._rows = rows
        self._report = report
        self._kv_pairs = {name: Pair(name, "f16") for name in readers.kv_types}
        self._weights: Pair | None = None
        if readers.reference is not None:
            self._weights = Pair(passes.model_name, readers.reference[0])
        self.losses: list[Floats] = []

    @property
    def pairs(self) -> list[Pair]:
        return [*self._kv_pairs.values(), *([self._weights] if self._weights else [])]

    def run(self) -> None:
        """Fill `losses` and `pairs`."""
        done, total = 0, sum(map(len, self._passes.tokens))
        for tokens in self._passes.tokens:
            self._begin_pass(len(tokens))
            for part in chunks(len(tokens), self._rows):
                self._chunk(tokens, part)
                self._report("pass", (done + part.stop) / total)
            done += len(tokens)

    def _begin_pass(self, n_tokens: int) -> None:
        readers = self._readers
        others = [readers.reference[1]] if readers.reference else []
        for reader in (readers.main, *others, *readers.kv_types.values()):
            reader.forget()
        for pair in self.pairs:
            pair.begin_pass()
        self.losses.append(np.full(n_tokens, np.nan))

    def _chunk(self, tokens: Ids, part: slice) -> None:
        inputs, targets = tokens[part], tokens[part.start + 1 : part.stop + 1]
        main = self._readers.main.logits(inputs, part.start)
        self.losses[-1][part.start + 1 : part.stop + 1] = losses(main, targets)
        for name, reader in self._readers.kv_types.items():
            self._kv_pairs[name].add(main, reader.logits(inputs, part.start), targets)
        if self._readers.reference and self._weights:
            reference = self._readers.reference[1].logits(inputs, part.start)
            self._weights.add(reference, main, targets)


# Narrower windows -------------------------------------------------------------------------------


def _windows(
    reader: Reader, passes: Passes, uncut: Sequence[Floats], rows: int, report: Report
) -> list[WindowRun]:
    """The judged tokens of every pass under each window; uncut where the window holds the pass."""
    runs = []
    for number, ctx in enumerate(passes.windows):
        found = []
        for tokens, judged_from, whole in zip(
            passes.tokens, passes.judged_from, uncut, strict=True
        ):
            if len(tokens) <= ctx:
                found.append(_packed(whole[judged_from:]))
                continue
            parts = [
                _slide(reader, tokens, slide, passes.keep, rows)
                for slide in slides(len(tokens), ctx, judged_from, passes.keep)
            ]
            found.append(_packed(np.concatenate(parts)))
        runs.append(WindowRun(ctx, tuple(found)))
        report("windows", (number + 1) / len(passes.windows))
    return runs


def _slide(reader: Reader, tokens: Ids, slide: Slide, keep: int, rows: int) -> Floats:
    """Losses of the tokens one state of the window judges, computed from nothing."""
    seen = np.concatenate([tokens[:keep], tokens[slide.start : slide.judged_to]])
    first = keep + slide.judged_from - slide.start  # where the judged tokens are in `seen`
    reader.forget()
    reader.read(seen[: first - 1], 0)
    found = []
    for start in range(first - 1, len(seen) - 1, rows):
        end = min(start + rows, len(seen) - 1)
        found.append(losses(reader.logits(seen[start:end], start), seen[start + 1 : end + 1]))
    return np.concatenate(found)


def _packed(values: Floats) -> bytes:
    return values.astype(np.float32).tobytes()
