from __future__ import annotations

import socket
from pathlib import Path

import psutil

from okno.bench.canary import Canaries
from okno.bench.client import Address, get
from okno.bench.served import serve
from okno.bench.visitors import BEHAVIOURS, Outcome, Scene, Visitor

RESULTS = {
    "leaves in the queue": "cancelled",
    "leaves in prefill": "cancelled",
    "leaves in the answer": "cancelled",
    "wrong request": "refused",
    "prompt too long": "refused",
    "embedding": "answered",
    "tokenize and back": "answered",
}


async def test_every_behaviour_gets_what_it_should_from_a_real_server(tmp_path: Path) -> None:
    flags = ["--model", "demo", "--batch-size", "2", "--ctx", "512", "--threads", "1"]
    async with serve(flags, tmp_path / "log") as served:
        scene = Scene(served.address, Canaries(0), long_repeats=20, too_long=200)
        visitor = Visitor(scene, 0)
        for kind, (_, behave) in BEHAVIOURS.items():
            outcome = Outcome(kind)
            await behave(visitor, outcome)
            assert (kind, outcome.result) == (kind, RESULTS.get(kind, "completed"))
            assert not outcome.leaked
        status, _ = await get(served.address, "/health")
        worker = served.worker_pid()
    assert status == 200
    assert not psutil.pid_exists(worker)


async def test_a_server_that_is_not_there_makes_a_failed_visit() -> None:
    visitor = Visitor(Scene(closed_address(), Canaries(0), 1, 1), seed=0)
    outcome = await visitor.visit()
    assert outcome.result == "failed"
    assert "ConnectionRefusedError" in outcome.problem


def closed_address() -> Address:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(*probe.getsockname())
