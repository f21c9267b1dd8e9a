"""Sending the answer of a generation: one JSON body, or a stream of events.

Both watch the connection while they wait; the client's leaving cancels the engine's work at once.
Errors before the first byte are raised (app.py makes them statuses); later ones end the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from okno.core.errors import OknoError
from okno.core.events import Accepted, Delta, Finished, Queued, TokenLogprob, Usage
from okno.server.context import Context
from okno.server.errors import JSONBytes, error_body, ignored_header
from okno.server.generation import Generation, unless_gone
from okno.server.job import Job
from okno.server.replies import (
    FINISH_REASONS,
    chat_logprobs,
    text_logprobs,
    text_offsets,
    timings_body,
    usage_body,
)
from okno.server.sse import DONE, KEEP_ALIVE, ChunkWriter, event
from okno.server.waiting import QueueComments, waiting_headers


@dataclass(slots=True)
class Choice:
    """One finished choice of a body that is sent at once."""

    text: list[str] = field(default_factory=list)
    chars: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    end: Finished = field(default_factory=lambda: Finished("", "stop"))


def answer(context: Context, job: Job) -> Response:
    return StreamedAnswer(context, job) if job.stream else WholeAnswer(context, job)


def job_headers(job: Job, accepted: Sequence[Accepted]) -> dict[str, str]:
    return waiting_headers(accepted) | ignored_header(job.ignored)


class WholeAnswer(Response):
    """Waits for every choice, then sends one JSON body."""

    def __init__(self, context: Context, job: Job) -> None:
        super().__init__()
        self._context = context
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await unless_gone(receive, self._run())
        if response is not None:
            await response(scope, receive, send)

    async def _run(self) -> Response:
        job = self._job
        choices = [Choice([job.echo[k // job.n] if job.echo else ""]) for k in self._indices()]
        generation = self._context.generation(job.requests, job.wire_names)
        async with aclosing(generation):
            headers = job_headers(job, await generation.start())
            async for choice, item in generation.events():
                collect(choices[choice], item)
        return JSONBytes(whole_body(job, choices), headers=headers)

    def _indices(self) -> range:
        return range(len(self._job.requests))


def collect(choice: Choice, item: Queued | Delta | Finished) -> None:
    if isinstance(item, Queued):
        return
    if isinstance(item, Finished):
        choice.end = item
        return
    choice.text.append(item.text)
    if item.logprobs:
        choice.logprobs.extend(item.logprobs)
        choice.offsets.extend(text_offsets(item.logprobs, item.text, choice.chars))
    choice.chars += len(item.text)


def whole_body(job: Job, choices: Sequence[Choice]) -> dict[str, object]:
    return {
        "id": job.id,
        "object": "chat.completion" if job.kind == "chat" else "text_completion",
        "created": job.created_s,
        "model": job.model,
        "choices": [choice_body(job, i, choice) for i, choice in enumerate(choices)],
        "usage": usage_body(grouped([choice.end.usage for choice in choices], job.n)),
        "timings": timings_body([choice.end for choice in choices]),
    }


def choice_body(job: Job, index: int, choice: Choice) -> dict[str, object]:
    text = "".join(choice.text)
    logprobs: dict[str, object] | None = None
    shown: dict[str, object] = {"text": text}
    if job.kind == "chat":
        shown = {"message": {"role": "assistant", "content": text, "refusal": None}}
    if job.wants_logprobs and job.kind == "chat":
        logprobs = chat_logprobs(choice.logprobs)
    elif job.wants_logprobs:
        logprobs = text_logprobs(choice.logprobs, choice.offsets)
    reason = FINISH_REASONS[choice.end.reason]
    return {"index": index, **shown, "logprobs": logprobs, "finish_reason": reason}


class StreamedAnswer(Response):
    """Server-sent events: headers once every choice is accepted, then chunks as tokens come."""

    media_type = "text/event-stream"

    def __init__(self, context: Context, job: Job) -> None:
        super().__init__()
        self._context = context
        self._job = job
        self._writer = ChunkWriter(
            job.kind, job.id, job.model, job.created_s, len(job.requests), job.usage_chunk
        )
        self._written_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await unless_gone(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        generation = self._context.generation(self._job.requests, self._job.wire_names)
        async with aclosing(generation):
            accepted = await generation.start()
            await self._start(send, accepted)
            self._written_s = loop.time()
            ticker = loop.create_task(self._keep_alive(send))
            try:
                last = await self._events(send, generation, QueueComments(accepted))
            except OknoError as error:
                last = event(error_body(error))
            finally:
                ticker.cancel()
        await send({"type": "http.response.body", "body": last + DONE, "more_body": False})

    async def _start(self, send: Send, accepted: Sequence[Accepted]) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}
        headers |= job_headers(self._job, accepted)
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        opening = b"".join(self._opening(k) for k in range(len(self._job.requests)))
        await send({"type": "http.response.body", "body": opening, "more_body": True})

    def _opening(self, choice: int) -> bytes:
        echo = self._job.echo
        text = echo[choice // self._job.n] if echo else ""
        return self._writer.first(choice) + (self._writer.text(choice, text) if text else b"")

    async def _events(self, send: Send, generation: Generation, queue: QueueComments) -> bytes:
        """Send all chunks; returns the bytes that close the stream."""
        writer = self._writer
        now = asyncio.get_running_loop().time
        ends: dict[int, Usage] = {}
        async for choice, item in generation.events():
            if isinstance(item, Finished):
                chunk = writer.final(choice, item)
                ends[choice] = item.usage
            elif isinstance(item, Queued):
                chunk = queue.moved(choice, item)
            else:
                queue.begin()
                chunk = writer.delta(choice, item)
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._written_s = now()
        return writer.usage(self._usage(ends)) if self._job.usage_chunk else b""

    def _usage(self, ends: dict[int, Usage]) -> dict[str, object]:
        return usage_body(grouped([ends[k] for k in sorted(ends)], self._job.n))

    async def _keep_alive(self, send: Send) -> None:
        """A comment whenever nothing was written for keep_alive_s."""
        every_s = self._context.settings.keep_alive_s
        now = asyncio.get_running_loop().time
        while True:
            silent_s = now() - self._written_s
            if silent_s >= every_s:
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                self._written_s = now()
                silent_s = 0.0
            await asyncio.sleep(every_s - silent_s)


def grouped(usages: Sequence[Usage], n: int) -> list[list[Usage]]:
    """Usages of all choices, by prompt."""
    return [list(usages[i : i + n]) for i in range(0, len(usages), n)]
