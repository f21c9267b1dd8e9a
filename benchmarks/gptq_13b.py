"""The user's own command on a 13 B GPTQ checkpoint: conversion, memory, speed.

    python -m okno.bench.gptq llama-13b --out /tmp/models/Saiga-13B-GPTQ
    python benchmarks/gptq_13b.py /tmp/models --out docs/benchmarks/gptq-13b.md

Starts `python server.py --model Saiga-13B-GPTQ --batch_size 1 --ctx 2048 --load-in-8bit` with an
empty data folder, so that the checkpoint is converted, and a second time, so that it is not. Then
one prompt and one answer, greedily. Memory: of the server process while it converts (peak
resident), and of the worker after the answer (RssAnon) against what `okno plan` says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from okno.bench.report import environment, publish, table

NAME = "Saiga-13B-GPTQ"
FLAGS = ("--batch_size", "1", "--ctx", "2048", "--load-in-8bit")
PROMPT_TOKENS, ANSWER_TOKENS = 256, 32
MIB = 2**20
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Run:
    """A server that is up. ready_s: from its start; peak_bytes: of the server process until then.
    said: what it printed."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_s: float = 0.0
    peak_bytes: int = 0

    @property
    def said(self) -> str:
        return self.log.read_text()

    def get(self, path: str, body: object = None) -> dict[str, object]:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=900) as answer:
            return json.load(answer)  # type: ignore[no-any-return]


@contextmanager
def served(models: Path, data: Path, port: int) -> Iterator[Run]:
    """The user's command, up and running."""
    command = [sys.executable, "server.py", "--model", NAME, *FLAGS, "--models-dir", str(models),
               "--port", str(port)]  # fmt: skip
    settings = {**os.environ, "OKNO_DATA_DIR": str(data), "OKNO_CONFIG": "none"}
    log = data / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=output, stderr=output)
        run = Run(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait(run)
            yield run
        finally:
            process.terminate()
            process.wait(60)


def _wait(run: Run) -> None:
    began, server = time.perf_counter(), psutil.Process(run.process.pid)
    while True:
        if run.process.poll() is not None:
            raise SystemExit(f"the server ended:\n{run.said}")
        run.peak_bytes = max(run.peak_bytes, server.memory_info().rss)
        try:
            run.get("/health")
        except OSError:
            time.sleep(0.1)
            continue
        run.ready_s = time.perf_counter() - began
        return


def worker_anon_bytes(run: Run) -> int:
    """RssAnon of the process that holds the model."""
    children = psutil.Process(run.process.pid).children(recursive=True)
    worker = max(children, key=lambda child: child.memory_info().rss)
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return next(int(x.split()[1]) * 1024 for x in status.splitlines() if x.startswith("RssAnon"))


def planned_bytes(models: Path, data: Path) -> int:
    """What `okno plan` says that the window needs, from the checkpoint's headers alone."""
    command = [sys.executable, "-m", "okno.cli.main", "plan", NAME, "--models-dir", str(models),
               "--batch-size", "1", "--ctx", "2048", "--json"]  # fmt: skip
    settings = {**os.environ, "OKNO_DATA_DIR": str(data), "OKNO_CONFIG": "none"}
    told = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, check=True)
    return int(json.loads(told.stdout)["asked"]["memory"]["needed_bytes"])


def measure(models: Path, data: Path) -> list[tuple[str, str]]:
    """The rows of the report."""
    source_bytes = sum(p.stat().st_size for p in (models / NAME).glob("*.safetensors"))
    planned = planned_bytes(models, data)
    with served(models, data, 7981) as first:
        converted_s, peak = first.ready_s, first.peak_bytes
        print(first.said)
    with served(models, data, 7982) as run:
        anon_loaded = worker_anon_bytes(run)
        prompt = list(range(1000, 1000 + PROMPT_TOKENS))
        body = {"model": NAME, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0,
                "ignore_eos": True}  # fmt: skip
        timings = run.get("/v1/completions", body)["timings"]
        assert isinstance(timings, dict)
        anon = max(anon_loaded, worker_anon_bytes(run))
        second_s = run.ready_s
    return [
        ("checkpoint", f"{source_bytes / 1e9:.2f} GB"),
        ("start with conversion until ready", f"{converted_s:.1f} s"),
        ("start again until ready", f"{second_s:.1f} s"),
        ("so the conversion", f"{converted_s - second_s:.1f} s, "
         f"{source_bytes / 1e6 / (converted_s - second_s):.0f} MB/s of source"),
        ("peak memory of the converting process", f"{peak / MIB:,.0f} MiB"),
        ("worker memory predicted from the headers", f"{planned / MIB:,.0f} MiB"),
        ("worker memory measured", f"{anon / MIB:,.0f} MiB"),
        (f"prompt of {PROMPT_TOKENS} tokens", f"{timings['prompt_per_second']:.1f} tokens/s"),
        (f"answer of {ANSWER_TOKENS} tokens", f"{timings['predicted_per_second']:.2f} tokens/s"),
    ]  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="the folder that holds Saiga-13B-GPTQ")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    data = Path(tempfile.mkdtemp(dir=asked.models))
    try:
        rows = measure(asked.models, data)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    flags = " ".join(FLAGS)
    publish(
        "# The user's command on a 13 B GPTQ checkpoint\n\n"
        f"`python server.py --model {NAME} {flags}`: 40 layers, 5,120 wide, 4 bits, groups of 128, "
        "symmetric, random weights\n\n" + environment() + "\n"
        + table(("what", "figure"), rows),
        asked.out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
