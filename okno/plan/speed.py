"""The speed of a planned load: rates and times to first token, each with its 90 % interval."""

from __future__ import annotations

from okno.core.calibration import Calibration
from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.plan import Figure, SpeedPlan
from okno.plan.memory_sizes import uses_flash
from okno.plan.refine import Refinement
from okno.plan.speed_attention import Batch, Part, batch_of
from okno.plan.speed_interval import PROMPT_ERROR, interval, relative_error
from okno.plan.speed_model import SpeedModel
from okno.plan.speed_prefill import Neighbours, prompt_s, prompts_at_once_s, row_beside_s

__all__ = ["Planner", "SpeedModel", "predict_speed"]

NOTHING = Figure(0.0, 0.0, 0.0)
ANSWER_TOKENS = 128  # of a typical request
Cache = tuple[str, bool]  # its type, and whether it is read by flash attention


def predict_speed(
    header: ModelHeader,
    load: Load,
    calibration: Calibration,
    *,
    fill_tokens: int,
    prompt_tokens: int,
) -> SpeedPlan:
    """The speed of `header`'s model under `load`. For many loads of one model use a Planner."""
    planner = Planner(header, calibration)
    return planner.predict(load, fill_tokens=fill_tokens, prompt_tokens=prompt_tokens)


class Planner:
    """Speeds of many loads of one model on one machine: what they share is computed once."""

    def __init__(
        self,
        header: ModelHeader,
        calibration: Calibration,
        refinement: Refinement | None = None,
    ) -> None:
        """refinement: what serving this model has taught about its steps."""
        self._header, self._calibration = header, calibration
        self._refinement = refinement or Refinement()
        self._models: dict[Cache, SpeedModel] = {}
        self._decodes: dict[tuple[Cache, bool, int, int], tuple[int, float, float]] = {}
        self._prompts: dict[tuple[Cache, int, int, int], float] = {}

    def predict(self, load: Load, *, fill_tokens: int, prompt_tokens: int) -> SpeedPlan:
        """fill_tokens: in each sequence's window, at most ctx. prompt_tokens: at most ctx - 1. An
        embedding model decodes nothing: its decode rates are 0."""
        window = load.window
        fill = max(1, min(fill_tokens, window.ctx) - 1)
        prompt = max(1, min(prompt_tokens, window.ctx - 1))
        ttft, loaded, rate = self._first_tokens(load, prompt)
        batch_s, batch_error = self._decode(load, window.batch_size, fill)
        alone_s, alone_error = self._decode(load, 1, fill)
        none = self._header.is_embedding_model
        return SpeedPlan(
            fill_tokens=min(fill_tokens, window.ctx),
            prompt_tokens=prompt,
            alone_tok_s=NOTHING if none else interval(1 / alone_s, alone_error),
            user_tok_s=NOTHING if none else interval(1 / batch_s, batch_error),
            total_tok_s=NOTHING if none else interval(window.batch_size / batch_s, batch_error),
            prefill_tok_s=rate,
            ttft_s=ttft,
            ttft_loaded_s=loaded,
            request_s=self._request_s(load, 1, fill, prompt),
            full_request_s=self._request_s(load, window.batch_size, fill, prompt),
        )

    def model(self, load: Load) -> SpeedModel:
        """The step times of such a load."""
        cache = self._cache(load)
        if cache not in self._models:
            self._models[cache] = SpeedModel(self._header, self._calibration, *cache)
        return self._models[cache]

    def _cache(self, load: Load) -> Cache:
        """What of a load the time of attention depends on."""
        return load.window.kv_type, uses_flash(self._header, load)

    def _decode(self, load: Load, batch_size: int, fill: int) -> tuple[float, float]:
        """(seconds, relative error) of a step in which all decode."""
        return self._refined(self.model(load), *self._calibrated_decode(load, batch_size, fill))

    def _calibrated_decode(
        self, load: Load, batch_size: int, fill: int
    ) -> tuple[int, float, float]:
        """(rows, seconds, relative error) of such a step, before anything was learnt."""
        key = (self._cache(load), load.kv_unified, batch_size, fill)
        if key not in self._decodes:
            model = self.model(load)
            batch = batch_of([Part(batch_size, 1, fill)])
            batch = model.filled(batch) if load.kv_unified else batch
            error = relative_error(model, batch, batch_size)
            self._decodes[key] = (batch.n_rows, model.batch_s(batch, batch_size), error)
        return self._decodes[key]

    def _request_s(self, load: Load, batch_size: int, fill: int, prompt: int) -> float:
        """SpeedPlan.request_s, or full_request_s. A prompt may fill the window, so that its rows
        are taken in the middle of it."""
        model, step_tokens = self.model(load), load.window.step_tokens
        _, decode_s, _ = self._calibrated_decode(load, batch_size, fill)
        if batch_size == 1:
            alone_s = self._prompt_s(model, 1, prompt, step_tokens)
            return alone_s + ANSWER_TOKENS * decode_s
        neighbours = Neighbours(batch_size - 1, fill)
        row_s = row_beside_s(model, neighbours, load.window.ctx // 2, step_tokens)
        return prompt * row_s + ANSWER_TOKENS * decode_s / batch_size

    def _refined(
        self, model: SpeedModel, rows: int, seconds: float, error: float
    ) -> tuple[float, float]:
        """(seconds, relative error) with what steps of so many rows have taught."""
        learnt = self._refinement.correction(rows, flash=model.flash)
        return seconds * learnt.factor, error if learnt.error is None else min(error, learnt.error)

    def _first_tokens(self, load: Load, prompt: int) -> tuple[Figure, Figure, Figure]:
        """(TTFT alone, TTFT of the last of batch_size at once, prompt tokens/s)."""
        window = load.window
        model = self.model(load)
        piece = _typical_piece(prompt, window.step_tokens)
        unsure = PROMPT_ERROR * relative_error(model, piece, 1)
        factor, error = self._refined(model, piece.n_rows, 1.0, unsure)
        alone = factor * self._prompt_s(model, 1, prompt, window.step_tokens)
        loaded = factor * self._prompt_s(model, window.batch_size, prompt, window.step_tokens)
        return (
            interval(alone, error),
            interval(loaded, error),
            interval(prompt / alone, error),
        )

    def _prompt_s(self, model: SpeedModel, count: int, tokens: int, step_tokens: int) -> float:
        key = ((model.kv_type, model.flash), count, tokens, step_tokens)
        if key not in self._prompts:
            self._prompts[key] = (
                prompt_s(model, tokens, step_tokens)
                if count == 1
                else prompts_at_once_s(model, count, tokens, step_tokens)
            )
        return self._prompts[key]


def _typical_piece(prompt: int, step_tokens: int) -> Batch:
    rows = min(prompt, step_tokens)
    return batch_of([Part(1, rows, max(0, prompt - rows))])
