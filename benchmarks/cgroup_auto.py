"""Does `auto` ever run out of memory, or refuse what fits? Random models under random limits.

    python benchmarks/cgroup_auto.py --trials 200 --out docs/benchmarks/auto-under-limits.md

Each trial runs a real worker (okno.bench.full_context) with batch and ctx `auto` inside a memory
cgroup of its own (v1 or v2; where none can be made, under RLIMIT_DATA). Counted: deaths for lack
of memory, and refusals of a load that then survives with 256 MiB less. Goal: none of either.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from okno.bench.full_context import REFUSED_EXIT
from okno.bench.report import environment, publish, table
from okno.bench.shapes import PRESETS, write_gguf
from okno.engines.process import worker_environment
from okno.engines.protocol import WorkerOptions

MIB = 2**20
SPARE_BYTES = 256 * MIB
SMALLEST_CTX = 256
MOST_ROWS = 1024
TIMEOUT_S = 600.0
V1, UNIFIED = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
MODELS = (
    ("tiny", "F32"), ("llama-135m", "Q4_0"), ("qwen3-mid", "Q4_K_M"), ("gemma3-mid", "Q4_0"),
    ("gpt-oss-mid", "MXFP4"), ("mamba2-mid", "F16"), ("granite-mid", "Q4_K_M"),
    ("lfm2-mid", "Q8_0"), ("deepseek2-mid", "Q4_0"), ("llama-mid", "Q4_0"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trial:
    """One model under one limit. outcome: `served`, `refused`, `refused what fits`, `died`."""

    model: str
    limit_bytes: int
    kv_type: str
    mmap: bool
    outcome: str
    said: str


Join = Callable[[], None]


@contextmanager
def limited(name: str, limit_bytes: int) -> Iterator[Join]:
    """What a child calls, before it starts, to be bounded. Raises nothing: falls back to
    RLIMIT_DATA."""
    folder = _cgroup(name, limit_bytes)
    if folder is None:
        yield partial(resource.setrlimit, resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        return
    try:
        yield partial(_join, folder)
    finally:
        _remove(folder)


def _cgroup(name: str, limit_bytes: int) -> Path | None:
    v1 = (V1 / "memory.limit_in_bytes").exists()
    folder = (V1 if v1 else UNIFIED) / name
    files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if v1 else (
        "memory.max", "memory.swap.max")  # fmt: skip
    try:
        folder.mkdir(exist_ok=True)
        (folder / files[0]).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # swap is not accounted everywhere
            (folder / files[1]).write_text(str(limit_bytes) if v1 else "0")
    except OSError:
        return None
    return folder


def _join(folder: Path) -> None:
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def _remove(folder: Path) -> None:
    """Empty a moment after its processes have ended."""
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def outcome(options: WorkerOptions, limit_bytes: int) -> tuple[str, str]:
    """`served`, `refused` or `died`, and the last line it said."""
    with limited(f"okno-auto-{os.getpid()}", limit_bytes) as join:
        done = subprocess.run(
            [sys.executable, "-m", "okno.bench.full_context", str(MOST_ROWS)],
            input=msgspec.msgpack.encode(options), capture_output=True, env=worker_environment(),
            preexec_fn=join, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    said = lines[-1][:200] if lines else ""
    names = {0: "served", REFUSED_EXIT: "refused"}
    return names.get(done.returncode, "died"), said or f"exit status {done.returncode}"


def trial(chance: random.Random, folder: Path) -> Trial:
    """A random model under a limit from below its weights to a few times their size."""
    shape, file_type = chance.choice(MODELS)
    path = folder / f"{shape}-{file_type}.gguf"
    if not path.exists():
        write_gguf(PRESETS[shape], path, file_type)  # type: ignore[arg-type]
    kv_type, mmap = chance.choice(("f16", "f16", "bf16")), chance.random() < 0.3
    limit = int(64 * MIB + path.stat().st_size * chance.uniform(0.7, 4) +
                chance.uniform(0, 512) * MIB)  # fmt: skip
    options = WorkerOptions(str(path), shape, kv_type=kv_type, mmap=mmap)
    result, said = outcome(options, limit)
    if result == "refused" and limit > SPARE_BYTES:
        smallest = msgspec.structs.replace(options, batch_size=1, ctx=SMALLEST_CTX)
        if outcome(smallest, limit - SPARE_BYTES)[0] == "served":
            result = "refused what fits"
    return Trial(path.stem, limit, kv_type, mmap, result, said)


def report(trials: list[Trial]) -> str:
    counts = Counter(one.outcome for one in trials)
    rows = [
        (one.model, f"{one.limit_bytes / MIB:,.0f}", one.kv_type, "yes" if one.mmap else "no",
         one.outcome, one.said if one.outcome != "served" else "")
        for one in trials
    ]  # fmt: skip
    kind = "cgroup v1" if (V1 / "memory.limit_in_bytes").exists() else "cgroup v2 or RLIMIT_DATA"
    summary = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
    return "\n".join([
        "# `auto` under memory limits", "", environment(),
        f"{len(trials)} random (model, limit) pairs in {kind}, at most {MOST_ROWS:,} rows "
        f"computed in each. {summary}.", "",
        table(["Model", "limit MiB", "KV", "mmap", "outcome", "said"], rows),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Random models under random memory limits.")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("bench-models"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(asked.seed)
    trials = []
    for number in range(asked.trials):
        one = trial(chance, asked.folder)
        trials.append(one)
        sys.stderr.write(f"{number + 1}/{asked.trials} {one.model} "
                         f"{one.limit_bytes / MIB:,.0f} MiB: {one.outcome}\n")  # fmt: skip
    publish(report(trials), asked.out)


if __name__ == "__main__":
    main()
