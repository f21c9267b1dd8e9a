"""Flags of other programs that okno knows and does not have: refused, with what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refused:
    """Flags and the sentence they are answered with. switch: they take no value."""

    names: Sequence[str]
    reason: str
    switch: bool = False


REFUSED: tuple[Refused, ...] = (
    Refused(
        ("--gpu-memory-utilization",),
        "okno does not reserve a share of the memory: it asks for batch x ctx tokens. "
        "Set --batch-size, --ctx or --kv-pool instead.",
    ),
    Refused(
        ("-b", "--batch"),
        "Use --step-tokens (prompt tokens per step) or --batch-size (requests at once).",
    ),
    Refused(
        ("--cont-batching", "-cb", "--no-cont-batching", "-nocb", "--enable-chunked-prefill"),
        "Requests join and leave the running batch at every step, always on: leave it out. "
        "--batch-size 1 answers one request at a time.",
        switch=True,
    ),
    Refused(
        ("--enable-prefix-caching", "--no-enable-prefix-caching"),
        "The prefix cache is on; --no-prefix-cache turns it off.",
        switch=True,
    ),
    Refused(
        ("--context-shift", "--no-context-shift"),
        "okno never drops the beginning of a conversation: what does not fit into --ctx is "
        "refused. Leave it out.",
        switch=True,
    ),
    Refused(
        ("--jinja", "--no-jinja"),
        "Chat templates are always rendered with Jinja: leave it out.",
        switch=True,
    ),
    Refused(
        ("--chat-template", "--chat-template-file"),
        "The chat template is the one in the model file; another one cannot be given yet.",
    ),
    Refused(
        ("--mlock",),
        "okno does not lock the model in memory. Without --mmap it is read into memory of its "
        "own, which file caching cannot take away: leave it out.",
        switch=True,
    ),
    Refused(
        ("--cpu",),
        "--gpu-layers 0 keeps every layer on the CPU.",
        switch=True,
    ),
    Refused(
        ("--tensor-parallel-size", "-tp", "--tensor-split", "-ts", "--split-mode", "-sm",
         "--main-gpu", "-mg"),
        "Which GPUs are used cannot be chosen yet; --gpu-layers says how many layers go there.",
    ),
    Refused(
        ("--threads-batch", "-tb"),
        "One number of threads serves prompts and answers: --threads.",
    ),
    Refused(
        ("--quantization", "--dtype"),
        "The weights are used as the file stores them: choose a GGUF file with the wanted ones.",
    ),
    Refused(
        ("--mmproj",),
        "Images cannot be loaded yet.",
    ),
    Refused(
        ("--lora-modules", "--enable-lora"),
        "Adapters are applied to every request, not chosen by the model's name: "
        "--lora NAME=PATH:SCALE.",
    ),
    Refused(
        ("--lora-init-without-apply",),
        "Adapters are applied as they are given, and not changed by requests: leave it out, or "
        "give a scale of 0.",
        switch=True,
    ),
    Refused(
        ("--embedding", "--embeddings", "--no-webui"),
        "Nothing to switch: /v1/embeddings is always on, and this version has no web page. Leave "
        "it out.",
        switch=True,
    ),
    Refused(
        ("--trust-remote-code",),
        "okno never runs code that comes with a model: leave it out.",
        switch=True,
    ),
    Refused(
        ("--verbose", "-v"),
        "Use --log-level info or --log-level debug.",
        switch=True,
    ),
)  # fmt: skip
