"""Faults 1, 2, 5 (its message), 13, 29 and 30 at a real server with the demo model."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys

import httpx
import psutil

from tests.e2e.server import RealServer, balanced, serving

WINDOW = ("--model", "demo", "--batch-size", "4", "--ctx", "512")


def body(content: str, max_tokens: int) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": content}], "temperature": 0, "stream": True,
        "ignore_eos": True, "max_tokens": max_tokens, "stream_options": {"include_usage": True},
    }  # fmt: skip


class Reader:
    """One streaming client; keeps what it got."""

    def __init__(self) -> None:
        self.status = 0
        self.tokens = 0
        self.text = ""
        self.usage: dict[str, int] | None = None
        self.error: dict[str, object] | None = None
        self.terminal = 0

    async def run(self, client: httpx.AsyncClient, url: str, request: dict[str, object]) -> None:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=request) as reply:
            self.status = reply.status_code
            if reply.status_code != 200:
                self.error = json.loads(await reply.aread())["error"]
                self.terminal += 1
                return
            async for line in reply.aiter_lines():
                self._take(line)

    def _take(self, line: str) -> None:
        if line == "data: [DONE]" or not line.startswith("data: "):
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            self.error, self.terminal = chunk["error"], self.terminal + 1
            return
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            if choice["delta"].get("content"):
                self.tokens += 1
                self.text += choice["delta"]["content"]
            self.terminal += choice["finish_reason"] is not None


async def read_all(url: str, requests: list[dict[str, object]]) -> list[Reader]:
    readers = [Reader() for _ in requests]
    async with httpx.AsyncClient(timeout=90) as client:
        await asyncio.gather(
            *(r.run(client, url, q) for r, q in zip(readers, requests, strict=True))
        )
    return readers


async def when_streaming(server: RealServer, *, in_flight: int = 1, tokens: int = 20) -> None:
    """Until so many answers are in flight and one of them has some tokens."""
    async with httpx.AsyncClient() as client:
        while True:
            metrics = (await client.get(f"{server.url}/metrics")).text
            if f"okno_in_flight {float(in_flight)}" not in metrics:
                continue
            slots = (await client.get(f"{server.url}/slots")).json()["slots"]
            if any(s["is_processing"] and s["generated_tokens"] >= tokens for s in slots):
                return


async def when_refusing(server: RealServer) -> None:
    """Until the server takes no new connections: it is draining."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        except (ConnectionRefusedError, ConnectionResetError):
            return
        writer.close()


async def test_killing_the_worker_costs_no_http_stream_and_the_server_stays_up() -> None:
    with serving(*WINDOW) as server:
        requests = [body(f"Tell me about okno, part {k}", 300) for k in range(8)]
        whole = await read_all(server.url, requests)
        victim = server.worker().pid
        reading = asyncio.create_task(read_all(server.url, requests))
        await when_streaming(server, in_flight=8)
        psutil.Process(victim).send_signal(signal.SIGKILL)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{server.url}/props")).status_code == 200
            cut = await reading
            assert (await client.get(f"{server.url}/health")).json() == {"status": "ok"}
        assert [r.text for r in cut] == [r.text for r in whole]
        assert all(r.terminal == 1 and r.error is None for r in cut)
        assert [r.usage for r in cut if r.usage and r.usage["completion_tokens"] == 300]
        assert server.worker().pid != victim
        counters = server.counters()
        assert counters["restarts_total"] == 1
        assert balanced(counters)
        assert server.stop() == 0


async def test_sigterm_lets_fifty_streams_end_and_exits_zero() -> None:
    with serving(*WINDOW, "--drain-timeout", "60") as server:
        requests = [body(f"Hello {k}", 200) for k in range(50)]
        reading = asyncio.create_task(read_all(server.url, requests))
        await when_streaming(server, in_flight=50)
        family = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        readers = await reading
        assert all(r.terminal == 1 for r in readers)
        assert all(r.status == 200 for r in readers), [r.error for r in readers]
        assert all(r.usage and r.usage["completion_tokens"] == 200 for r in readers)
        assert await asyncio.to_thread(server.process.wait, 30) == 0
        await asyncio.to_thread(psutil.wait_procs, family, timeout=20)
        assert not any(process.is_running() for process in family)


async def test_what_is_not_done_when_the_drain_is_over_gets_its_terminal_event() -> None:
    with serving(*WINDOW, "--drain-timeout", "0.2") as server:
        requests = [body(f"Hello {k}", 490) for k in range(50)]
        reading = asyncio.create_task(read_all(server.url, requests))
        await when_streaming(server, in_flight=50)
        server.process.send_signal(signal.SIGTERM)
        readers = await reading
        assert all(r.terminal == 1 for r in readers)
        cut = [r for r in readers if r.error is not None]
        assert cut
        assert all("stopping" in str(r.error["message"]) for r in cut if r.error)
        assert await asyncio.to_thread(server.process.wait, 30) == 0


async def test_a_second_sigterm_ends_it_at_once() -> None:
    with serving(*WINDOW, "--drain-timeout", "600") as server:
        requests = [body(f"Hello {k}", 490) for k in range(60)]
        reading = asyncio.create_task(read_all(server.url, requests))
        await when_streaming(server, in_flight=60)
        family = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        await when_refusing(server)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 20)
        await asyncio.to_thread(psutil.wait_procs, family, timeout=20)
        assert not any(process.is_running() for process in family)
        await asyncio.wait([reading])
        assert reading.exception() is None or isinstance(reading.exception(), httpx.HTTPError)


async def test_a_full_queue_answers_503_with_retry_after_at_once() -> None:
    with serving("--model", "demo", "--batch-size", "1", "--ctx", "512", "--queue-limit", "2") as s:
        reading = asyncio.create_task(  # noqa: RUF006 - awaited below
            read_all(s.url, [body("Hi", 400) for _ in range(3)])
        )
        async with httpx.AsyncClient() as client:
            while len((await client.get(f"{s.url}/slots")).json()["waiting"]) < 2:
                assert not reading.done()
            refused = await client.post(f"{s.url}/v1/chat/completions", json=body("Hi", 4))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "--queue-limit" in refused.json()["error"]["message"]
        assert all(r.terminal == 1 for r in await reading)


def run_serve(*flags: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "okno.cli.main", "serve", *flags],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_busy_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_serve("--model", "demo", "--port", str(port))
    assert ended.returncode == 2
    assert str(port) in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_too_few_descriptors_is_a_clear_error() -> None:
    limit = ("bash", "-c", 'ulimit -n 48; exec "$@"', "-")
    ended = run_serve("--model", "demo", "--port", "0", prefix=limit)
    assert ended.returncode == 2
    assert "ulimit -n" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_window_that_does_not_fit_says_what_would() -> None:
    ended = run_serve("--model", "demo", "--port", "0", "--batch-size", "64", "--ctx", "4000000")
    assert ended.returncode == 1
    assert "free on cpu. Possible here: --ctx 1024" in ended.stderr
    assert "Traceback" not in ended.stderr
