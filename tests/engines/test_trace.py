"""The Chrome trace: what is in it, and that it is good at any moment."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from okno.core.errors import BadSetting
from okno.engines.protocol import Traced
from okno.engines.steps import Piece, StepRecord
from okno.engines.trace import Tracks
from okno.engines.trace_file import TraceFile

Events = list[dict[str, Any]]


def a_step(number: int, *pieces: Piece) -> StepRecord:
    """Begins number seconds after the worker; 0.25 s of scheduling, 0.5 of engine, 0.125 after."""
    return StepRecord(
        number, float(number), "all known", 64, {"copy": 1}, len(pieces), 3, 40, 0, list(pieces),
        0.25, 0.5, 0.125,
    )  # fmt: skip


DECODE = Piece("a-0", 2, 12, 1, True)
PROMPT = Piece("b-0", 5, 0, 64, False)


def events(*batches: Traced) -> Events:
    tracks = Tracks()
    found = [event for batch in batches for event in tracks.events(batch)]
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def named(found: Events, name: str) -> Events:
    return [event for event in found if event["name"] == name]


def test_a_step_holds_its_parts_one_after_the_other() -> None:
    found = events(Traced(100.0, [a_step(3, DECODE, PROMPT)]))
    times = {e["name"]: (e["ts"], e["dur"]) for e in found if e["ph"] == "X" and e["tid"] == 0}
    assert times == {
        "step": (3_000_000, 875_000),
        "schedule": (3_000_000, 250_000),
        "engine": (3_250_000, 500_000),
        "sample": (3_750_000, 125_000),
    }
    (step,) = named(found, "step")
    assert step["args"]["rows"] == 65
    assert step["args"]["decode_rows"] == 1
    assert step["args"]["why"] == "all known"
    assert step["args"]["copy"] == 1


def test_each_slot_has_a_track_with_what_the_engine_computed_for_it() -> None:
    found = events(Traced(100.0, [a_step(3, DECODE, PROMPT), a_step(4, DECODE)]))
    names = {e["tid"]: e["args"]["name"] for e in named(found, "thread_name")}
    assert names == {0: "steps", 3: "slot 2", 6: "slot 5"}
    assert len(named(found, "thread_name")) == 3, "each is named once"
    (prompt,) = named(found, "prompt")
    assert (prompt["tid"], prompt["ts"], prompt["dur"]) == (6, 3_250_000, 500_000)
    assert prompt["args"] == {"request": "b-0", "start": 0, "rows": 64, "drafts": 0, "accepted": 0,
                              "draft_source": None}  # fmt: skip
    assert [e["ts"] for e in named(found, "decode")] == [3_250_000, 4_250_000]


def test_counters_follow_the_steps() -> None:
    found = events(Traced(100.0, [a_step(3, DECODE)]))
    assert [(e["ph"], e["args"]) for e in named(found, "sequences")] == [
        ("C", {"live": 1, "waiting": 3})
    ]
    assert [e["args"] for e in named(found, "used cells")] == [{"cells": 40}]


def test_a_new_worker_is_a_process_of_its_own_on_the_same_time() -> None:
    found = events(
        Traced(100.0, [a_step(1, DECODE)]), Traced(100.0, [a_step(2, DECODE)]),
        Traced(160.0, [a_step(1, DECODE)]),
    )  # fmt: skip
    assert [(e["pid"], e["args"]["name"]) for e in named(found, "process_name")] == [
        (1, "okno worker 1"), (2, "okno worker 2"),
    ]  # fmt: skip
    assert [(e["pid"], e["ts"]) for e in named(found, "step")] == [
        (1, 1_000_000), (1, 2_000_000), (2, 61_000_000),
    ]  # fmt: skip


# The file ---------------------------------------------------------------------------------------


def batches(count: int) -> Iterator[Traced]:
    for number in range(count):
        yield Traced(1.0, [a_step(number, DECODE, PROMPT)])


def test_a_closed_file_is_json(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with closing(TraceFile(path)) as trace:
        for batch in batches(3):
            trace.take(batch)
    found = json.loads(path.read_text())
    assert [e["args"]["step"] for e in named(found, "step")] == [0, 1, 2]


def test_a_file_without_steps_is_json(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    TraceFile(path).close()
    assert json.loads(path.read_text()) == []


WRITER = """
import os, signal, sys
from pathlib import Path
from okno.engines.trace_file import TraceFile
from tests.engines.test_trace import batches

class Killed(TraceFile):
    def _write(self, text):
        super()._write(text)
        if b'"step":40,' in text:
            os.kill(os.getpid(), signal.SIGKILL)

trace = Killed(Path(sys.argv[1]))
for batch in batches(50):
    trace.take(batch)
trace._thread.join()
"""


def test_a_file_whose_writer_was_killed_lacks_only_the_bracket(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", WRITER, str(path)], cwd=root, check=False)
    assert ended.returncode == -signal.SIGKILL
    text = path.read_text()
    assert text.startswith("[\n{")
    found = json.loads(text + "]")
    assert [e["args"]["step"] for e in named(found, "step")] == list(range(41))


def test_an_older_trace_is_replaced_once_there_is_something_to_write(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("[\n" + "x" * 100_000)
    trace = TraceFile(path)
    assert path.stat().st_size > 100_000, "a server that fails to start leaves it alone"
    trace.take(next(batches(1)))
    trace.close()
    assert len(named(json.loads(path.read_text()), "step")) == 1


def test_a_file_that_is_no_trace_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(BadSetting, match="is no trace, so it is not overwritten") as caught:
        TraceFile(path)
    assert caught.value.info.param == "trace"
    assert path.read_bytes() == b"GGUF"


@pytest.mark.parametrize("name", ["", "missing/trace.json"])
def test_what_cannot_be_written_is_said_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadSetting, match="--trace a file"):
        TraceFile(tmp_path / name)


def test_the_trace_ends_at_its_limit_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "trace.json"
    with caplog.at_level(logging.WARNING), closing(TraceFile(path, most_bytes=5000)) as trace:
        for batch in batches(100):
            trace.take(batch)
    found = json.loads(path.read_text() + "]")
    assert 0 < len(named(found, "step")) < 20
    assert caplog.text.count("the trace in") == 1
    assert "which is the limit" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_ends_the_trace_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = TraceFile(tmp_path / "trace.json")
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, trace._file.fileno())
    os.close(full)
    trace._bytes = 1  # /dev/full cannot be truncated
    with caplog.at_level(logging.WARNING):
        for batch in batches(3):
            trace.take(batch)
        trace.close()
    assert caplog.text.count("No space left on device") == 1
