"""The scripted engine: no model, one byte per token, answers that follow from the prompt.

It ships, for tests of the parts around an engine and for trying the API without one. It never
stands in for a claim about speed or quality. It keeps a literal cache of tokens per sequence and
answers from that cache alone, so a scheduling fault shows as a wrong text.

The answer to a chat is the last user message: `say X` gives X, `long N` gives N letters, anything
else is echoed. `options.script` is a JSON object: `step_ms` makes a step last that long, `abort_on`
and `hang_on` name a text that, in a prompt, aborts the process or stops the loop; `most_cells` is
the largest pool that fits (a larger one is refused when it is opened); `shout_chars`
writes a line of that length to stderr in every step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from okno.core.errors import BadSetting, DoesNotFit
from okno.core.window import MemoryUse, ModelFacts, Window, WindowChange
from okno.engines.auto_window import Asked, check, plain_window
from okno.engines.learning import RowLearner
from okno.engines.llama_numbers import kv_type_named
from okno.engines.protocol import WorkerOptions
from okno.engines.resizing import Switched, changed_options
from okno.schedule.resize import Moves
from okno.schedule.step import (
    Copy,
    Forget,
    Limits,
    Operation,
    Pack,
    Restore,
    Save,
    Share,
    Step,
    Truncate,
)

CTX_TRAIN = 4096
BOS, END, USER, ASSISTANT, SYSTEM = 256, 257, 258, 259, 260
NAMES = {BOS: b"<|bos|>", END: b"<|end|>", USER: b"<|user|>", ASSISTANT: b"<|assistant|>",
         SYSTEM: b"<|system|>"}  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class ByteVocabulary:
    """A token per byte and five control tokens."""

    n_tokens = 256 + len(NAMES)
    pieces = [bytes([b]) for b in range(256)] + [b""] * len(NAMES)
    special = [False] * 256 + [True] * len(NAMES)
    end_tokens = frozenset({END})

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokens = [BOS] if add_special else []
        data = text.encode()
        at = 0
        while at < len(data):
            match = next((t for t, name in NAMES.items() if data.startswith(name, at)), None)
            if match is None or not parse_special:
                tokens.append(data[at])
                at += 1
            else:
                tokens.append(match)
                at += len(NAMES[match])
        return tokens

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        return [
            token
            for text, parse_special in parts
            for token in self.encode(text, add_special=False, parse_special=parse_special)
        ]

    def label(self, token: int) -> bytes:
        return NAMES.get(token) or self.pieces[token]


@dataclass(frozen=True, slots=True)
class Script:
    """What goes wrong, and how long a step takes."""

    step_ms: float = 0.0
    abort_on: str = ""
    hang_on: str = ""
    shout_chars: int = 0
    most_cells: int = 2**31


class ScriptedEngine:
    """engines.engine.Engine without a model."""

    chat_template: str | None = TEMPLATE
    adds_bos = True
    drafter = None
    notes = ("scripted engine: no model, answers are echoes",)

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.window = _window(options)
        self.limits = _limits(self.window, options)
        self.vocab = ByteVocabulary()
        self.facts = _facts(options)
        self.learner = RowLearner()
        self._script = _script(options.script)
        self._cache: dict[int, list[int]] = {}
        self._states: dict[int, list[int]] = {}

    def execute(self, step: Step) -> NDArray[np.float32]:
        self._apply(step.operations)
        rows = []
        for span in step.spans:
            held = self._cache.setdefault(span.seq, [])
            assert len(held) == span.start, "positions are contiguous"
            for at, token in enumerate(span.tokens.tolist(), 1):
                held.append(token)
                if at > len(span.tokens) - span.logits:
                    rows.append(self._logits(held))
        self._misbehave(step)
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.vocab.n_tokens)

    def embed(
        self, tokens: Sequence[int], piece_rows: Callable[[], int]
    ) -> Generator[None, None, NDArray[np.float32]]:
        for _ in range(0, len(tokens), piece_rows()):
            time.sleep(self._script.step_ms / 1000)
            yield
        counts = np.bincount(np.asarray(tokens) % 16, minlength=16)
        return counts.astype(np.float32)

    def memory(self) -> MemoryUse:
        return MemoryUse(psutil.Process().memory_info().rss, 0, 0, 2**40)

    def prepare_copy(self, seq: int) -> bool:
        return True

    def prepare_resize(self, change: WindowChange) -> ScriptedResize:
        return ScriptedResize(self, changed_options(self.options, self.window, change))

    def move(
        self, resize: ScriptedResize, operations: Sequence[Operation], moves: Moves
    ) -> Switched:
        """Go on in the window of `resize`, if its pool is not too large."""
        self._apply(operations)
        most = self._script.most_cells
        if (asked := resize.window.kv_pool_tokens) > most:
            error = DoesNotFit(
                f"A pool of {asked:,} cells does not fit; at most {most:,} do. Ask for less.",
                needed_bytes=asked, free_bytes=most,
            )  # fmt: skip
            return Switched(moved=True, staged=True, refused=error)
        kept = moves if resize.moves else ()
        self._cache = {move.dst: self._cache.get(move.src, []) for move in kept}
        self.options, self.window, self.limits = resize.options, resize.window, resize.limits
        return Switched(moved=resize.moves)

    def _apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            match operation:
                case Copy(src, dst, length):
                    self._cache[dst] = self._cache[src][:length]
                case Truncate(seq, length):
                    del self._cache.setdefault(seq, [])[length:]
                case Save(seq, key):
                    self._states[key] = list(self._cache[seq])
                case Restore(key, seq):
                    self._cache[seq] = list(self._states[key])
                case Forget(key):
                    del self._states[key]
                case Share(src, dst, length):
                    self._cache[dst][:length] = self._cache[src][:length]
                case Pack():
                    pass  # a list has no cells

    def _logits(self, held: list[int]) -> NDArray[np.float32]:
        logits = np.zeros(self.vocab.n_tokens, dtype=np.float32)
        logits[_next_token(held)] = 30.0
        return logits

    def _misbehave(self, step: Step) -> None:
        time.sleep(self._script.step_ms / 1000)
        if self._script.shout_chars:
            sys.stderr.write("!" * self._script.shout_chars + "\n")
        texts = [bytes(t for t in self._cache[span.seq] if t < 256) for span in step.spans]
        for trigger, act in ((self._script.abort_on, os.abort), (self._script.hang_on, _hang)):
            if trigger and any(trigger.encode() in text for text in texts):
                act()


class ScriptedResize:
    """engines.resizing.Prepared: the new window is there at once. States of another KV type do not
    fit, as with the real engine."""

    needed_bytes = 0

    def __init__(self, engine: ScriptedEngine, options: WorkerOptions) -> None:
        self.options = options
        self.window = _window(options)
        self.limits = _limits(self.window, options)
        self.moves = self.fits_states = self.window.kv_type == engine.window.kv_type
        self._engine = engine

    def open(self, used_cells: int) -> None:
        pass

    def switch(self, operations: Sequence[Operation], moves: Moves) -> Switched:
        return self._engine.move(self, operations, moves)

    def release(self) -> None:
        pass


def _window(options: WorkerOptions) -> Window:
    asked = Asked(options.batch_size, options.ctx, options.kv_pool_tokens,
                  kv_type_named(options.kv_type), options.step_tokens)  # fmt: skip
    check(asked)
    return plain_window(asked, CTX_TRAIN)


def _limits(window: Window, options: WorkerOptions) -> Limits:
    return Limits(
        window.batch_size, window.batch_size + 8, window.kv_pool_tokens, parks=options.prefix_cache,
        host_bytes=window.kv_pool_tokens, walk_cells=256,
    )  # fmt: skip


def _next_token(held: list[int]) -> int:
    """The token after `held`: the next byte of the answer that the last user turn asks for."""
    if ASSISTANT not in held:
        return held[len(held) // 2]
    begin = len(held) - held[::-1].index(ASSISTANT)
    turn = bytes(t for t in held[_last(held[: begin - 1], USER) : begin - 1] if t < 256)
    answer = _answer(turn)
    said = len(held) - begin
    return answer[said] if said < len(answer) else END


def _last(held: list[int], token: int) -> int:
    return len(held) - held[::-1].index(token) if token in held else 0


def _answer(turn: bytes) -> bytes:
    verb, _, rest = turn.partition(b" ")
    if verb == b"say":
        return rest
    if verb == b"long" and rest.isdigit():
        return (b"abcdefghij " * (int(rest) // 11 + 1))[: int(rest)]
    return turn


def _hang() -> None:
    while True:
        signal.pause()


def _script(text: str) -> Script:
    try:
        return Script(**json.loads(text or "{}"))
    except (ValueError, TypeError) as error:
        raise BadSetting(f"The engine script is not understood: {error}") from error


def _facts(options: WorkerOptions) -> ModelFacts:
    return ModelFacts(
        name=options.name, path=options.model_path, architecture="scripted",
        description="scripted engine", n_params=0, size_bytes=0, n_vocab=ByteVocabulary.n_tokens,
        n_embd=16, n_layer=0, ctx_train=CTX_TRAIN, shares_prefixes=True, has_chat_template=True,
        is_embedding_model=False, pooling="none", special_tokens={"bos": BOS, "eos": END},
    )  # fmt: skip
