"""What a real server shows of its work: steps, metrics, the queue, the trace."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import RealServer, serving

SECRET = "Tell nobody about the marzipan factory"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One slot, so that requests wait; two answers were given."""
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    with serving("--model", "demo", "--batch-size", "1", "--ctx", "512", "--trace", str(path),
                 ) as running:  # fmt: skip
        for text in (SECRET, "What is okno?"):
            ask(running, text, user="agent-007")
        yield running


def ask(server: RealServer, text: str, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 30,
            "ignore_eos": True} | fields  # fmt: skip
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def until(condition: Callable[[], Any]) -> Any:
    """Poll until something is found; the test's timeout bounds it."""
    while not (found := condition()):
        time.sleep(0.02)  # nothing signals the state of another process
    return found


def test_the_steps_name_what_ran_but_no_text_and_no_client(server: RealServer) -> None:
    answer = httpx.get(f"{server.url}/okno/v1/steps", params={"last": 2048})
    steps = answer.json()["steps"]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    tokens = sum(step["decode_rows"] + step["accepted_drafts"] for step in steps)
    assert tokens >= 2 * 29, "all but the first of each answer"
    assert {piece["kind"] for step in steps for piece in step["sequences"]} == {"prompt", "decode"}
    assert all(step["engine_s"] > 0 for step in steps)
    assert "marzipan" not in answer.text
    assert "agent-007" not in answer.text


def test_the_metrics_count_every_step(server: RealServer) -> None:
    count = httpx.get(f"{server.url}/okno/v1/steps", params={"last": 1}).json()["count"]
    found = until(lambda: (c := server.counters())["step_rows_count"] >= count and c)
    assert found["step_seconds_count"] == found["kv_use_ratio_count"] == found["step_rows_count"]
    assert found["step_rows_sum"] >= found["prompt_tokens_total"] - found["cached_tokens_total"]
    assert found["prompt_cached_ratio_count"] == 2
    assert found["preemptions_total"] == 0


def test_who_waits_is_told_by_headers(server: RealServer) -> None:
    """Of several at once on one slot the first begins at once, the others know their place."""
    alone = ask(server, "Hello")
    assert alone.headers["okno-queue-position"] == "0"
    assert alone.headers["okno-estimated-wait-s"] == "0.0"
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda k: ask(server, f"Count to {k}", max_tokens=200), range(6)))
    told = sorted(
        (int(a.headers["okno-queue-position"]), float(a.headers["okno-estimated-wait-s"]))
        for a in answers
    )
    assert told[0] == (0, 0.0)
    assert told[-1][0] >= 1
    assert told[-1][1] > 0


def test_the_trace_is_good_while_it_grows_and_after_a_kill(server: RealServer) -> None:
    """The last test: it ends the server."""
    path = Path(server.process.args[server.process.args.index("--trace") + 1])  # type: ignore[union-attr, index]
    count = httpx.get(f"{server.url}/okno/v1/steps", params={"last": 1}).json()["count"]
    until(lambda: len(steps_so_far(path)) >= count)
    ask(server, "Hello again")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    found = steps_of(path)
    assert [event["args"]["step"] for event in found] == list(range(1, len(found) + 1))
    assert "marzipan" not in path.read_text()
    assert "agent-007" not in path.read_text()


def steps_of(path: Path) -> list[dict[str, Any]]:
    return [event for event in json.loads(path.read_text() + "]") if event["name"] == "step"]


def steps_so_far(path: Path) -> list[dict[str, Any]]:
    """Nothing while a batch is just being written."""
    try:
        return steps_of(path)
    except ValueError:
        return []
