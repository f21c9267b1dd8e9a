"""`okno resize`: a running server in another window."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from okno.cli.app import run
from okno.cli.resize_table import print_window
from tests.e2e.server import RealServer, serving


@pytest.fixture(autouse=True)
def _no_okno_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    environment = {"OKNO_ENGINE": "scripted", "OKNO_API_KEY": "secret"}
    with serving("--batch-size", "4", "--ctx", "512", environment=environment) as found:
        yield found


def resize(server: RealServer, *args: str) -> int:
    return run(["resize", "--url", server.url, "--api-key", "secret", *args])


def test_a_change_and_the_window_afterwards(server, capsys):
    assert resize(server, "--batch_size", "2", "--ctx", "1,024", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["before"]["batch_size"], body["window"]["batch_size"]) == (4, 2)
    assert body["window"]["kv_pool"] == 2 * 1024
    assert resize(server) == 0
    shown = capsys.readouterr().out
    assert "1,024" in shown
    assert "before" not in shown
    assert resize(server, "--kv-pool", "1024", "--kv-type", "q8_0") == 0
    shown = capsys.readouterr().out
    assert "Paused for" in shown
    assert "q8_0" in shown
    assert resize(server, "--kv-pool", "1024") == 0
    assert "nothing was done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--ctx", "many"], 2, "--ctx 'many' is neither a number nor `auto`"),
        (["--ctx", "3"], 1, "`ctx` is 3"),
        (["--kv-type", "q3"], 1, "kv_type"),
        (["--ctx", "900", "--kv-pool", "800"], 2, "smaller than the context window"),
    ],
)
def test_what_cannot_be_is_said(server, capsys, args, code, said):
    assert resize(server, *args) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_without_a_server_it_says_how_to_start_one(capsys):
    assert run(["resize", "--url", "127.0.0.1:9", "--ctx", "64"]) == 1
    assert "Start one with `okno serve`" in capsys.readouterr().err


def test_without_the_key_nothing_is_changed(server, capsys):
    assert run(["resize", "--url", server.url, "--ctx", "64"]) == 1
    assert "API key" in capsys.readouterr().err


BODY = {
    "changed": True,
    "before": {"batch_size": 8, "ctx": 4096, "kv_type": "f16", "kv_pool": 32768},
    "window": {"batch_size": 4, "ctx": 16384, "kv_type": "f16", "kv_pool": 65536},
    "pause_s": 0.034,
    "staged": True,
    "state_bytes": 3 << 20,
    "live": {"moved": 4, "waiting_again": 3, "recomputed": 0},
    "parked": {"before": 5, "kept": 2},
    "memory": {"process_bytes": 4 << 30, "weights_bytes": 2 << 30, "kv_bytes": 1 << 30,
               "free_bytes": 8 << 30},
    "notes": ["auto: [batch] 4"],
}  # fmt: skip


def test_the_table_says_what_was_done(capsys):
    print_window(BODY, Console(width=100, highlight=False))
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "ctx 4,096 16,384", "Paused for 34 ms, the old one closed first",
        "4 of the answers under way went on where they were (3.0 MiB copied).",
        "3 of the answers under way wait for a place again",
        "Parked prefixes: 5 before, 2 now.", "auto: [batch] 4",
    ):  # fmt: skip
        assert text in out
    assert "computed again" not in out
