"""A parsed HTTP request for generated text: what to run and how to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from okno.core.request import Prompt, Request, Sampling
from okno.server import parse
from okno.server.sse import Kind


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


def spread(base: Request, prompts: Sequence[Prompt], n: int) -> tuple[Request, ...]:
    """n requests per prompt, checked; ids `<id>-<k>`, seeds counted up per choice."""
    base.check()
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
