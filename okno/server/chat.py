"""POST /v1/chat/completions."""

from __future__ import annotations

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.server import parse
from okno.server.answer import answer
from okno.server.context import Context
from okno.server.job import make_job
from okno.server.schemas import ChatBody


async def chat(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, ChatBody)
    parse.refuse_tools(body)
    job = make_job(
        "chat",
        body,
        [parse.chat_prompt(body)],
        parse.chat_logprobs(body),
        model=context.model(body.model),
        client=context.client(request, body.user),
        priority=parse.priority(request.headers.get("okno-priority")),
        defaults=context.settings.defaults,
    )
    return answer(context, job)
