"""The tokens of a text, cut into passes, and the windows they will be read under."""

from __future__ import annotations

from dataclasses import dataclass

from okno.bench.depth_engine import as_ids
from okno.bench.depth_job import Job
from okno.bench.depth_math import Ids
from okno.core.errors import BadSetting
from okno.engines.llama_vocab import LlamaVocabulary
from okno.plan.depth_cut import (
    LEAST_WINDOW,
    first_judged,
    narrowest_window,
    pass_lengths,
    windows_to_try,
)


@dataclass(frozen=True, slots=True)
class Passes:
    """keep: tokens at the beginning of each pass that no window drops (BOS). judged_from: where
    the late tokens begin, per pass. windows: narrowest first."""

    model_name: str
    tokens: list[Ids]
    judged_from: list[int]
    windows: tuple[int, ...]
    keep: int
    notes: tuple[str, ...]


def cut_passes(job: Job, vocab: LlamaVocabulary, ctx_train: int) -> Passes:
    """Tokenise and cut. Raises BadSetting for a text too short, or windows that make no sense."""
    limit = _limit(job, ctx_train)
    keep = int(vocab.adds_bos)
    documents = [
        vocab.encode(text, add_special=False, parse_special=job.special) for text in job.documents
    ]
    tokens, left_out = _cut(documents, limit, job.max_tokens, [vocab.bos] * keep)
    longest = min(limit, keep + max(map(len, documents), default=0))
    windows = _windows(job, longest, limit)
    lengths = [len(one) for one in tokens]
    notes = []
    if left_out:
        notes.append(
            f"{left_out:,} tokens of the text were left out (rests shorter than half a pass, or "
            f"beyond the limit of {job.max_tokens:,} tokens; --max-tokens sets it)."
        )
    return Passes(
        job.name, tokens, first_judged(lengths, job.judged_tokens), windows, keep, tuple(notes)
    )


def _limit(job: Job, ctx_train: int) -> int:
    """Tokens of the longest pass."""
    if job.ctx is not None and job.ctx > ctx_train:
        raise BadSetting(
            f"--ctx {job.ctx:,}: {job.name} was trained for {ctx_train:,} tokens; beyond that its "
            f"losses say nothing. Give at most {ctx_train:,}.",
            param="ctx",
        )
    return max(LEAST_WINDOW, min(job.ctx or ctx_train, ctx_train, job.max_tokens))


def _cut(
    documents: list[list[int]], limit: int, max_tokens: int, head: list[int]
) -> tuple[list[Ids], int]:
    """The passes, `head` before each, and how many tokens are in none."""
    found: list[Ids] = []
    room, left_out = max_tokens, 0
    for document in documents:
        at = 0
        for length in pass_lengths(len(document), limit - len(head)):
            if length > room or length < LEAST_WINDOW:
                break
            found.append(as_ids([*head, *document[at : at + length]]))
            at, room = at + length, room - length
        left_out += len(document) - at
    return found, left_out


def _windows(job: Job, longest: int, limit: int) -> tuple[int, ...]:
    """The asked windows and the widest one; doublings by default."""
    if job.windows is None:
        _check_length(longest, narrowest_window(limit))
        return windows_to_try(longest, limit)
    asked = sorted(set(job.windows))
    if asked[0] < LEAST_WINDOW or asked[-1] > limit:
        raise BadSetting(
            f"--windows {','.join(map(str, asked))}: possible are {LEAST_WINDOW} to {limit:,} "
            f"tokens for {job.name} and this text.",
            param="windows",
        )
    _check_length(longest, asked[0])
    narrower = [ctx for ctx in asked if ctx < longest]
    wider = [ctx for ctx in asked if ctx >= longest]
    return (*narrower, wider[0] if wider else limit)


def _check_length(longest: int, narrowest: int) -> None:
    if longest <= narrowest:
        raise BadSetting(
            f"The text is too short: {longest:,} tokens in one piece, and the narrowest window has "
            f"{narrowest:,}, so no window would cut anything. Give a longer text, or narrower "
            "windows (--windows 64,128,256).",
            param="text",
        )
