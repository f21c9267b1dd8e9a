"""What every scenario plays on: one running server, prompts by tokens, streams watched live."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from okno.bench.client import call
from okno.bench.load_client import Answer, LoadRequest, Target, ask, error_message
from okno.bench.load_prompts import Prompts, words

CALIBRATION_WORDS = 200
BEGUN_TEXTS = 4
BEGIN_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 900.0


class ScenarioFailed(Exception):
    """A server could not do what the scenario measures; the message says what it did instead."""


@dataclass(frozen=True, slots=True)
class Scene:
    """tokens_per_word: of our prompts by the model's tokenizer; scale: of all lengths, 1 for the
    real measurement, less for a smoke run; ignore_eos: answers are as long as asked."""

    target: Target
    tokens_per_word: float
    seed: int
    scale: float = 1.0
    ignore_eos: bool = True

    def size(self, count: int) -> int:
        """A length of the scenario, scaled."""
        return max(1, round(count * self.scale))

    def request(
        self, number: int, prompt_tokens: int, max_tokens: int, *, shared_tokens: int = 0,
        client: str = "",
    ) -> LoadRequest:  # fmt: skip
        """Request `number` of about so many (scaled) tokens; only shared_tokens are common."""
        prompts = Prompts(self.seed, self.words(shared_tokens) if shared_tokens else 0)
        prompt = prompts.prompt(number, self.words(prompt_tokens))
        return LoadRequest(prompt, self.size(max_tokens), client=client, ignore_eos=self.ignore_eos)

    def words(self, tokens: int) -> int:
        """How many words make about so many (scaled) tokens."""
        return max(2, round(self.size(tokens) / self.tokens_per_word))

    async def ask(self, request: LoadRequest) -> Answer:
        """The whole answer. Raises ScenarioFailed when it is not whole."""
        return whole(await ask(self.target, request, time.perf_counter,
                               timeout_s=REQUEST_TIMEOUT_S))  # fmt: skip

    async def ask_all(self, requests: Sequence[LoadRequest]) -> list[Answer]:
        """All at once, as they come out, whole or not."""
        return await asyncio.gather(
            *(ask(self.target, r, time.perf_counter, timeout_s=REQUEST_TIMEOUT_S)
              for r in requests)
        )  # fmt: skip


class Stream:
    """A request that is watched while its answer comes."""

    def __init__(self, scene: Scene, request: LoadRequest) -> None:
        self.times_s: list[float] = []
        self._begun = asyncio.Event()
        self.task = asyncio.create_task(
            ask(scene.target, request, time.perf_counter, on_text=self._note,
                timeout_s=REQUEST_TIMEOUT_S)
        )  # fmt: skip

    def _note(self) -> None:
        self.times_s.append(time.perf_counter())
        if len(self.times_s) >= BEGUN_TEXTS:
            self._begun.set()

    async def begun(self) -> None:
        """Wait for its first texts. Raises ScenarioFailed when they do not come."""
        waiting = asyncio.create_task(self._begun.wait())
        await asyncio.wait(
            {waiting, self.task}, timeout=BEGIN_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        if self._begun.is_set():
            return
        if self.task.done():
            whole(self.task.result())
        raise ScenarioFailed("a stream did not begin beside the others")

    def gaps_s(self, since_s: float, until_s: float) -> list[float]:
        """Seconds between texts that overlap since_s..until_s; the last one counts up to until_s.
        Raises ScenarioFailed for a stream that ended before until_s: its gaps tell too little."""
        if self.task.done() and self.times_s[-1] < until_s:
            raise ScenarioFailed("a stream ended before the prompt had its first text")
        pairs = pairwise([*self.times_s, until_s])
        return [b - a for a, b in pairs if b > since_s and a < until_s]

    async def stop(self) -> None:
        """Leave it where it is."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def measured_scene(
    target: Target, seed: int, scale: float, *, ignore_eos: bool = True
) -> Scene:
    """A scene on `target`. Its tokens per word are the mean of all words that prompts are drawn
    from, counted by the server's own `usage`."""
    known = words()
    parts = [known[i : i + CALIBRATION_WORDS] for i in range(0, len(known), CALIBRATION_WORDS)]
    counted = [await _prompt_tokens(target, " ".join(part)) for part in parts]
    return Scene(target, sum(counted) / len(known), seed, scale, ignore_eos)


async def _prompt_tokens(target: Target, prompt: str) -> int:
    body = {**LoadRequest(prompt, 1).body(target), "stream": False}
    del body["stream_options"]
    status, answer = await call(target.address, "POST", target.path, body, target.headers)
    if status != 200:
        raise ScenarioFailed(f"{status}: {error_message(answer)}")
    try:
        return int(json.loads(answer)["usage"]["prompt_tokens"])
    except (ValueError, KeyError, TypeError):
        raise ScenarioFailed("it does not tell how many tokens a prompt has") from None


def whole(answer: Answer) -> Answer:
    """`answer`, if nothing is missing. Raises ScenarioFailed."""
    if answer.problem is not None:
        raise ScenarioFailed(f"{answer.problem.kind}: {answer.problem.text}")
    if not answer.chunks_s:
        raise ScenarioFailed("an answer without text")
    return answer


def all_whole(answers: Sequence[Answer]) -> Sequence[Answer]:
    """`answers`, if every one is whole. Raises ScenarioFailed with how many are not."""
    bad = [answer.problem for answer in answers if answer.problem is not None]
    if bad:
        raise ScenarioFailed(f"{len(bad)} of {len(answers)} failed: {bad[0].kind}: {bad[0].text}")
    for answer in answers:
        whole(answer)
    return answers
