"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.request import Request
from okno.server import parse
from okno.server.answer import Choice, answer, whole_usage
from okno.server.context import Context, now_s
from okno.server.job import Job, spread
from okno.server.replies import FINISH_REASONS, chat_logprobs, new_id, timings_body
from okno.server.schemas import ChatBody, ChatFields
from okno.server.wire import ignored_fields


async def chat(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, ChatBody)
    return answer(context, chat_job(context, body, context.client(request, body.user)), chat_body)


def chat_job(context: Context, body: ChatFields, client: str) -> Job:
    parse.refuse_tools(body)
    id = new_id("chatcmpl")
    stop = parse.stop(body, body.max_completion_tokens)
    field, constraint = parse.constraint(body)
    base = Request(
        id=id,
        prompt=parse.chat_prompt(body),
        sampling=parse.sampling(body, parse.chat_logprobs(body)),
        stop=stop,
        constraint=constraint,
        client=client,
        created_s=now_s(),
    )
    n = parse.choices(body)
    return Job(
        kind="chat",
        id=id,
        model=context.model(body.model),
        created_s=int(base.created_s),
        requests=spread(base, [base.prompt], n),
        n=n,
        stream=bool(body.stream),
        usage_chunk=parse.wants_usage(body),
        ignored=tuple(ignored_fields(body)),
        wire_names={"response_format": field, "prompt": "messages"},
    )


def chat_body(job: Job, choices: Sequence[Choice]) -> dict[str, object]:
    return {
        "id": job.id,
        "object": "chat.completion",
        "created": job.created_s,
        "model": job.model,
        "choices": [chat_choice(i, choice) for i, choice in enumerate(choices)],
        "usage": whole_usage(job, choices),
        "timings": timings_body([choice.end for choice in choices]),
    }


def chat_choice(index: int, choice: Choice) -> dict[str, object]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": "".join(choice.text), "refusal": None},
        "logprobs": chat_logprobs(choice.logprobs) if choice.logprobs else None,
        "finish_reason": FINISH_REASONS[choice.end.reason],
    }
