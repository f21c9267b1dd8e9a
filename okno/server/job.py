"""A parsed HTTP request for generated text: what to run and how to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from okno.core.errors import OknoError
from okno.core.request import Priority, Prompt, Request, Sampling
from okno.server import parse
from okno.server.context import now_s
from okno.server.generation import renamed
from okno.server.replies import new_id
from okno.server.schemas import GenerationFields
from okno.server.settings import GenerationDefaults
from okno.server.sse import Kind

ID_PREFIX: dict[Kind, str] = {"chat": "chatcmpl", "text": "cmpl"}


@dataclass(frozen=True, slots=True)
class Job:
    """A parsed HTTP request: what to run and how to answer. n: choices per prompt.

    echo: the text before each choice (completions). ignored: names for the warning header.
    wire_names: what the client called the fields that the engine may find fault with.
    """

    kind: Kind
    id: str
    model: str
    created_s: int
    requests: tuple[Request, ...]
    n: int
    stream: bool
    usage_chunk: bool
    ignored: tuple[str, ...] = ()
    echo: tuple[str, ...] = ()
    wire_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def wants_logprobs(self) -> bool:
        return self.requests[0].sampling.logprobs is not None


def make_job(
    kind: Kind,
    body: GenerationFields,
    prompts: Sequence[Prompt],
    logprobs: int | None,
    *,
    model: str,
    client: str,
    priority: Priority,
    defaults: GenerationDefaults,
) -> Job:
    """The job of `body`; `defaults` for what it leaves out. BadRequest names a field as the client
    did."""
    n = parse.choices(body, len(prompts))
    names = parse.wire_names(body)
    base = Request(
        id=new_id(ID_PREFIX[kind]),
        prompt=prompts[0],
        sampling=parse.sampling(body, logprobs, defaults.sampling),
        stop=parse.stop(body, defaults),
        constraint=parse.constraint(body)[1],
        client=client,
        priority=priority,
        cache_salt=parse.cache_salt(body),
        created_s=now_s(),
    )
    try:
        base.check()
    except OknoError as error:
        raise renamed(error, names) from error
    return Job(
        kind=kind,
        id=base.id,
        model=model,
        created_s=int(base.created_s),
        requests=spread(base, prompts, n),
        n=n,
        stream=bool(body.stream),
        usage_chunk=parse.wants_usage(body),
        ignored=tuple(parse.ignored(body)),
        wire_names=names,
    )


def spread(base: Request, prompts: Sequence[Prompt], n: int) -> tuple[Request, ...]:
    """n requests per prompt; ids `<id>-<k>`, seeds counted up per choice."""
    return tuple(
        replace(
            base,
            id=f"{base.id}-{index * n + k}",
            prompt=prompt,
            sampling=with_seed(base.sampling, k),
        )
        for index, prompt in enumerate(prompts)
        for k in range(n)
    )


def with_seed(sampling: Sampling, k: int) -> Sampling:
    return replace(sampling, seed=parse.nth_seed(sampling.seed or 0, k))
