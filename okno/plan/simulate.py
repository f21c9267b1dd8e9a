"""Waiting times under load: the real scheduler and pacer on simulated time.

Each simulated step takes what `step_time` says of it, so whatever the scheduler does (fairness,
preemption, pieces between decodes) is in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from okno.schedule.cost import Ahead
from okno.schedule.pacer import Pacer, Target
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence as TokenSequence
from okno.schedule.step import Limits, Sampled, Step


class StepTime(Protocol):
    """Seconds of a step; plan/speed_model.py's SpeedModel.step_s is one."""

    def __call__(
        self, rows: Sequence[int], depths: Sequence[int], outputs: int, *, parked_cells: int
    ) -> float: ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when it comes, its prompt, and how many tokens it generates. client: for
    fairness."""

    at_s: float
    prompt_tokens: int
    new_tokens: int = 1
    client: str = ""


@dataclass(slots=True)
class Outcome:
    """ttft_s: from arrival to the first token. itl_s: gaps between its further tokens. finish_s:
    the moment of the last."""

    arrival: Arrival
    token_times_s: list[float] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        return self.token_times_s[0] - self.arrival.at_s

    @property
    def itl_s(self) -> list[float]:
        return [float(gap) for gap in np.diff(self.token_times_s)]

    @property
    def finish_s(self) -> float:
        return self.token_times_s[-1]


def simulate(
    arrivals: Iterable[Arrival],
    limits: Limits,
    step_time: StepTime,
    *,
    step_tokens: int = 256,
    target: Target | None = None,
) -> list[Outcome]:
    """What each request meets, in the order given. Prompts share no prefix. step_tokens: rows of a
    step at most. A prompt and its answer must fit the pool, both of at least one token."""
    outcomes = [Outcome(arrival) for arrival in arrivals]
    simulation = _Simulation(
        Scheduler(limits), Pacer(step_tokens, _Asked(step_time), target), step_time, step_tokens
    )
    order = sorted(range(len(outcomes)), key=lambda i: outcomes[i].arrival.at_s)
    for index in order:
        simulation.run_until(outcomes[index].arrival.at_s)
        simulation.admit(index, outcomes[index])
    simulation.run_until(None)
    return outcomes


@dataclass(frozen=True, slots=True)
class _Asked:
    """A StepTime as the pacer's cost: it knows what its steps will take."""

    step_time: StepTime

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        n = ahead.decodes
        rows = [1 + guesses // n + (place < guesses % n) for place in range(n)]
        depths = [ahead.decode_cells // n] * n if n else []
        if prompt_rows:
            rows, depths = [*rows, prompt_rows], [*depths, ahead.prompt_depth]
        parked = max(0, ahead.used_cells - ahead.decode_cells - ahead.prompt_depth)
        return self.step_time(rows, depths, n + guesses, parked_cells=parked)


@dataclass(slots=True)
class _Simulation:
    scheduler: Scheduler
    pacer: Pacer
    step_time: StepTime
    step_tokens: int
    now_s: float = 0.0
    open: dict[str, Outcome] = field(default_factory=dict)

    def admit(self, index: int, outcome: Outcome) -> None:
        arrival = outcome.arrival
        self.now_s = max(self.now_s, arrival.at_s)
        self.open[str(index)] = outcome
        prompt = [index + 1] * arrival.prompt_tokens
        most = arrival.prompt_tokens + arrival.new_tokens
        sequence = TokenSequence(str(index), prompt, max_tokens=most, client=arrival.client)
        self.scheduler.add(sequence)

    def run_until(self, moment_s: float | None) -> None:
        """Steps until `moment_s` has passed; without one, until nothing is left to do."""
        while self.open and (moment_s is None or self.now_s < moment_s):
            self._step()

    def _step(self) -> None:
        step = self.scheduler.schedule(self.step_tokens, self.pacer.prompt_rows)
        if not step.spans:
            raise RuntimeError("a request of the simulation does not fit the pool")
        seconds = self._seconds(step)
        self.now_s += seconds
        wanting = [span.id for span in step.spans if span.logits]
        self.scheduler.update(step, {id: self._token(id) for id in wanting})

    def _seconds(self, step: Step) -> float:
        rows = [len(span.tokens) for span in step.spans]
        depths = [span.start for span in step.spans]
        parked = self.scheduler.pool.used - sum(rows) - sum(depths)
        return self.step_time(rows, depths, step.decodes, parked_cells=max(0, parked))

    def _token(self, id: str) -> Sampled:
        """Book a token."""
        outcome = self.open[id]
        outcome.token_times_s.append(self.now_s)
        if len(outcome.token_times_s) >= outcome.arrival.new_tokens:
            del self.open[id]
            return Sampled((0,), ended=True)
        return Sampled((0,))
