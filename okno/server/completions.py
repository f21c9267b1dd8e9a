"""POST /v1/completions: raw text or tokens, no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.errors import OknoError
from okno.core.request import Prompt, Request
from okno.server import parse
from okno.server.answer import Choice, answer, whole_usage
from okno.server.context import Context, now_s
from okno.server.generation import renamed
from okno.server.job import Job, spread
from okno.server.replies import FINISH_REASONS, new_id, text_logprobs, timings_body, token_text
from okno.server.schemas import CompletionBody, CompletionFields
from okno.server.wire import ignored_fields


async def completions(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, CompletionBody)
    parse.check_completion(body)
    prompts = parse.completion_prompts(body)
    client = context.client(request, body.user)
    job = completion_job(context, body, prompts, client)
    if body.echo:
        job = echoed(job, [await prompt_text(context, prompt) for prompt in prompts])
    return answer(context, job, completion_body)


def completion_job(
    context: Context, body: CompletionFields, prompts: Sequence[Prompt], client: str
) -> Job:
    id = new_id("cmpl")
    field, constraint = parse.constraint(body)
    base = Request(
        id=id,
        prompt=prompts[0],
        sampling=parse.sampling(body, body.logprobs),
        stop=parse.stop(body),
        constraint=constraint,
        client=client,
        created_s=now_s(),
    )
    n = parse.choices(body, len(prompts))
    return Job(
        kind="text",
        id=id,
        model=context.model(body.model),
        created_s=int(base.created_s),
        requests=spread(base, prompts, n),
        n=n,
        stream=bool(body.stream),
        usage_chunk=parse.wants_usage(body),
        ignored=tuple(ignored_fields(body)),
        wire_names={"response_format": field},
    )


def echoed(job: Job, texts: Sequence[str]) -> Job:
    return replace(job, echo=tuple(texts))


async def prompt_text(context: Context, prompt: Prompt) -> str:
    """The prompt as the text that `echo` puts before the answer."""
    if prompt.tokens is None:
        return prompt.text or ""
    try:
        return token_text((await context.engine.detokenize(prompt.tokens)).text)
    except OknoError as error:
        raise renamed(error, {"tokens": "prompt"}) from error


def completion_body(job: Job, choices: Sequence[Choice]) -> dict[str, object]:
    return {
        "id": job.id,
        "object": "text_completion",
        "created": job.created_s,
        "model": job.model,
        "choices": [completion_choice(i, choice) for i, choice in enumerate(choices)],
        "usage": whole_usage(job, choices),
        "timings": timings_body([choice.end for choice in choices]),
    }


def completion_choice(index: int, choice: Choice) -> dict[str, object]:
    return {
        "index": index,
        "text": "".join(choice.text),
        "logprobs": text_logprobs(choice.logprobs, 0) if choice.logprobs else None,
        "finish_reason": FINISH_REASONS[choice.end.reason],
    }
