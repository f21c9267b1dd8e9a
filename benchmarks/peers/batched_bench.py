"""llama-batched-bench: the decode rate of the same kernels without any server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

PROMPT_TOKENS, ANSWER_TOKENS = 16, 64
TIMEOUT_S = 1800


def command(binary: Path, model: Path, streams: Sequence[int], threads: int | None) -> list[str]:
    """Its command line: `streams` sequences side by side in one KV cache."""
    cells = max(streams) * (PROMPT_TOKENS + ANSWER_TOKENS)
    flags = [
        "-m", str(model), "-c", str(cells), "-npp", str(PROMPT_TOKENS), "-ntg",
        str(ANSWER_TOKENS), "-npl", ",".join(map(str, streams)), "--output-format", "jsonl",
    ]  # fmt: skip
    return [str(binary), *flags, *(["-t", str(threads)] if threads else [])]


def decode_rates(printed: str) -> dict[int, float]:
    """Tokens/s of decoding by the number of sequences, from its JSON lines."""
    rows = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    return {int(row["pl"]): float(row["speed_tg"]) for row in rows}


def run(binary: Path, model: Path, streams: Sequence[int], threads: int | None) -> dict[int, float]:
    """Measure. Raises RuntimeError with the end of what it printed when it fails."""
    done = subprocess.run(
        command(binary, model, streams, threads),
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{binary} ended with status {done.returncode}: {done.stderr[-500:]}")
    return decode_rates(done.stdout)
