"""A load: requests sent when they are due, whatever became of the earlier ones (open loop)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from okno.bench.load_arrivals import arrival_times
from okno.bench.load_client import Answer, LoadRequest, Target, ask
from okno.bench.load_mix import Mix
from okno.bench.load_prompts import Prompts


@dataclass(frozen=True, slots=True)
class Due:
    """A request and when it is sent, in seconds after the start."""

    at_s: float
    request: LoadRequest


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a load is made of; the same plan gives the same requests at the same times.

    rate_per_s: may be infinite (all at once); burstiness: 1 is Poisson, less is burstier;
    requests None: as many as arrive in duration_s; shared_prefix_words: in front of every prompt.
    """

    mix: Mix
    seed: int
    rate_per_s: float
    burstiness: float = 1.0
    requests: int | None = None
    duration_s: float = 60.0
    shared_prefix_words: int = 0
    ignore_eos: bool = False

    def due(self) -> list[Due]:
        """All requests, by time. Raises BadSetting for a load without an end."""
        times = arrival_times(
            self.rate_per_s, self.burstiness, self.seed,
            requests=self.requests, duration_s=self.duration_s,
        )  # fmt: skip
        source = random.Random(f"lengths {self.seed}")
        prompts = Prompts(self.seed, self.shared_prefix_words)
        made = []
        for number, at_s in enumerate(times):
            lengths = self.mix.draw(source)
            prompt = prompts.prompt(number, lengths.prompt_words)
            request = LoadRequest(prompt, lengths.max_tokens, ignore_eos=self.ignore_eos)
            made.append(Due(at_s, request))
        return made


async def run_load(
    target: Target, due: Sequence[Due], *, concurrency: int | None = None,
    timeout_s: float = 600.0, on_answer: Callable[[Answer], None] | None = None,
) -> list[Answer]:  # fmt: skip
    """The answers, in the order of `due`.

    concurrency: so many requests are open at most. A later one then waits here, and its TTFT
    counts that: it is measured from when the request was due.
    """
    began = time.perf_counter()
    gate = asyncio.Semaphore(concurrency or max(1, len(due)))

    def clock() -> float:
        return time.perf_counter() - began

    async def send(item: Due) -> Answer:
        async with gate:
            answer = await ask(target, item.request, clock, due_s=item.at_s, timeout_s=timeout_s)
        if on_answer is not None:
            on_answer(answer)
        return answer

    tasks: list[asyncio.Task[Answer]] = []
    async with asyncio.TaskGroup() as group:
        for item in due:
            await asyncio.sleep(max(0.0, item.at_s - clock()))
            tasks.append(group.create_task(send(item)))
    return [task.result() for task in tasks]
