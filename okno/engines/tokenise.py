"""Tokens of texts by a model's own tokenizer, in a child process: a broken model file ends the
child only. Only the vocabulary is loaded, no weights."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from okno.core.errors import ErrorInfo, ModelUnusable, from_info
from okno.core.python import module_command
from okno.engines.process import worker_environment

TIMEOUT_S = 300.0


class Tokenised(msgspec.Struct, frozen=True):
    """A text's tokens. lengths: UTF-8 bytes of the text that each token stands for; None when the
    tokenizer changes the text (small letters, other spaces), so that they cannot be told."""

    n_tokens: int
    lengths: list[int] | None


class Reply(msgspec.Struct):
    """What the child writes: a Tokenised for each text, or what is wrong."""

    texts: list[Tokenised] = []
    error: ErrorInfo | None = None


def tokenise(model: Path, texts: Sequence[str]) -> list[Tokenised]:
    """The tokens of each text, without any that a chat template adds.

    Raises ModelUnusable when the file cannot be read as a model, also when it crashes the engine.
    """
    try:
        child = subprocess.run(
            module_command("okno.engines.tokenise_child", str(model)),
            input=msgspec.json.encode(list(texts)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=worker_environment(),
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _broken(model, f"no answer within {TIMEOUT_S:.0f} s") from None
    if child.returncode:
        code = child.returncode
        raise _broken(model, signal.Signals(-code).name if code < 0 else f"exit status {code}")
    reply = msgspec.json.decode(child.stdout, type=Reply)
    if reply.error is not None:
        raise from_info(reply.error)
    return reply.texts


def _broken(model: Path, how: str) -> ModelUnusable:
    return ModelUnusable(
        f"The vocabulary of {model.name} cannot be used ({how}). The file may be damaged or of a "
        "newer format; get it again, or try another one."
    )
