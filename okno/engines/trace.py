"""Steps as events of a Chrome trace, for ui.perfetto.dev or chrome://tracing.

The format is "Trace Event Format" (Google, 2016): slices (`X`), counters (`C`) and names of tracks
(`M`), times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from okno.engines.protocol import Traced
from okno.engines.steps import Piece, StepRecord

STEPS_TRACK = 0  # the track of slot n is n + 1

TraceEvent = dict[str, object]


def step_events(record: StepRecord, worker: int, start_us: float) -> Iterator[TraceEvent]:
    """One step that began at start_us: a slice with its parts inside, a slice for each sequence
    that it computed, and counters."""
    engine_us = start_us + 1e6 * record.schedule_s
    sample_us = engine_us + 1e6 * record.engine_s
    track = (worker, STEPS_TRACK)
    yield _slice("step", track, start_us, record.seconds, _step_args(record))
    yield _slice("schedule", track, start_us, record.schedule_s, {})
    yield _slice("engine", track, engine_us, record.engine_s, {"rows": record.rows})
    yield _slice("sample", track, sample_us, record.sample_s, {})
    for piece in record.pieces:
        yield _slice(
            "decode" if piece.decoding else "prompt", (worker, piece.slot + 1), engine_us,
            record.engine_s, _piece_args(piece),
        )  # fmt: skip
    yield _counter("sequences", worker, start_us, {"live": record.live, "waiting": record.waiting})
    yield _counter("used cells", worker, start_us, {"cells": record.used_cells})


def _step_args(record: StepRecord) -> TraceEvent:
    return {
        "step": record.step,
        "rows": record.rows,
        "decode_rows": record.decode_rows,
        "prompt_rows": record.prompt_rows,
        "draft_rows": record.draft_rows,
        "accepted_drafts": record.accepted,
        "filler_rows": record.filler,
        "why": record.why,
        "allowed_prompt_rows": record.allowed,
        "preemptions": record.preemptions,
        **record.operations,
    }


def _piece_args(piece: Piece) -> TraceEvent:
    return {
        "request": piece.request,
        "start": piece.start,
        "rows": piece.rows,
        "drafts": piece.drafts,
        "accepted": piece.accepted,
        "draft_source": piece.source,
    }


def _slice(
    name: str, track: tuple[int, int], start_us: float, seconds: float, args: TraceEvent
) -> TraceEvent:
    return {
        "name": name, "ph": "X", "pid": track[0], "tid": track[1], "ts": round(start_us, 1),
        "dur": round(1e6 * seconds, 1), "args": args,
    }  # fmt: skip


def _counter(name: str, worker: int, at_us: float, values: TraceEvent) -> TraceEvent:
    return {"name": name, "ph": "C", "pid": worker, "ts": round(at_us, 1), "args": values}


def _name(kind: str, worker: int, track: int, name: str) -> TraceEvent:
    return {"name": kind, "ph": "M", "pid": worker, "tid": track, "args": {"name": name}}


class Tracks:
    """Turns batches into events, and says what the tracks are called when they first come up.
    Each worker is a process of the trace, numbered from 1; time 0 is the first one's begin."""

    def __init__(self) -> None:
        self._began_s: list[float] = []
        self._named: set[tuple[int, int]] = set()

    def events(self, batch: Traced) -> Iterator[TraceEvent]:
        if not self._began_s or self._began_s[-1] != batch.began_s:
            self._began_s.append(batch.began_s)
            yield from self._new_worker()
        worker = len(self._began_s)
        offset_s = batch.began_s - self._began_s[0]
        for record in batch.steps:
            for piece in record.pieces:
                track = (worker, piece.slot + 1)
                if track not in self._named:
                    self._named.add(track)
                    yield _name("thread_name", *track, f"slot {piece.slot}")
            yield from step_events(record, worker, 1e6 * (offset_s + record.start_s))

    def _new_worker(self) -> Iterator[TraceEvent]:
        worker = len(self._began_s)
        yield _name("process_name", worker, STEPS_TRACK, f"okno worker {worker}")
        yield _name("thread_name", worker, STEPS_TRACK, "steps")
