"""POST /v1/completions: raw text or tokens, no chat template."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.errors import OknoError
from okno.core.request import Prompt
from okno.server import parse
from okno.server.answer import answer
from okno.server.context import Context
from okno.server.generation import renamed
from okno.server.job import make_job
from okno.server.replies import token_text
from okno.server.schemas import CompletionBody


async def completions(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, CompletionBody)
    parse.check_completion(body)
    prompts = parse.completion_prompts(body)
    job = make_job(
        "text",
        body,
        prompts,
        body.logprobs,
        model=context.model(body.model),
        client=context.client(request, body.user),
        priority=parse.priority(request.headers.get("okno-priority")),
        defaults=context.settings.defaults,
    )
    if body.echo:
        texts = [await prompt_text(context, prompt) for prompt in prompts]
        job = replace(job, echo=tuple(texts))
    return answer(context, job)


async def prompt_text(context: Context, prompt: Prompt) -> str:
    """The prompt as the text that `echo` puts before the answer."""
    if prompt.tokens is None:
        return prompt.text or ""
    try:
        return token_text((await context.engine.detokenize(prompt.tokens)).text)
    except OknoError as error:
        raise renamed(error, {"tokens": "prompt"}) from error
