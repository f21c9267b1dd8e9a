"""`okno bench serve` against a small real server: what it prints, writes and refuses."""

from __future__ import annotations

import json

import pytest

from okno.cli.app import run
from tests.bench.openai_stub import Stub, serving
from tests.bench.test_visitors import closed_address

QUICK = ("--requests", "3", "--rate", "inf", "--mix", "fixed:5,3", "--seed", "1")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OKNO_API_KEY", raising=False)


def bench(stub: Stub, *args: str) -> int:
    with serving(stub) as address:
        return run(["bench", "serve", f"http://{address.authority}", *args])


def test_a_load_gives_a_table_of_its_figures(capsys):
    assert bench(Stub(), *QUICK) == 0
    out = capsys.readouterr().out
    for text in ("TTFT", "ITL", "worst gap", "tok/s in all", "goodput", "3 completed, 0 failed",
                 "9 tokens, counted by usage", "stub"):  # fmt: skip
        assert text in " ".join(out.split())


def test_json_is_for_programs_and_repeats_by_its_seed(capsys):
    stubs = [Stub(), Stub(), Stub()]
    for stub, seed in zip(stubs, ("7", "7", "8"), strict=True):
        assert bench(stub, *QUICK, "--seed", seed, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["completed"] == found["requests"] == 3
        assert found["run"]["seed"] == seed
    prompts = [sorted(body["prompt"] for body in stub.seen) for stub in stubs]
    assert prompts[0] == prompts[1] != prompts[2]


def test_without_a_seed_prompts_are_new_each_time(capsys):
    stubs = [Stub(), Stub()]
    for stub in stubs:
        assert bench(stub, "--requests", "3", "--rate", "inf", "--mix", "fixed:9,3") == 0
    assert not {b["prompt"] for b in stubs[0].seen} & {b["prompt"] for b in stubs[1].seen}


def test_options_reach_the_requests(capsys):
    stub = Stub()
    args = (*QUICK, "--chat", "--ignore-eos", "--model", "m", "--api-key", "k",
            "--shared-prefix-words", "4")  # fmt: skip
    assert bench(stub, *args) == 0
    assert {body["model"] for body in stub.seen} == {"m"}
    assert all(body["ignore_eos"] and body["max_tokens"] == 3 for body in stub.seen)
    texts = [body["messages"][0]["content"].split() for body in stub.seen]
    assert {len(text) for text in texts} == {9}
    assert len({tuple(text[:4]) for text in texts}) == 1
    assert len({text[4] for text in texts}) == 3
    assert set(stub.keys) == {"Bearer k"}


def test_the_written_page_does_not_show_the_key(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "load.md"
    args = [*QUICK, "--api-key", "topsecret", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["okno", "bench", "serve", *args])
    assert bench(Stub(), *args) == 0
    page = out.read_text()
    assert "| TTFT |" in page
    assert "okno bench serve" in page
    assert "topsecret" not in page + capsys.readouterr().out


def test_cut_streams_are_counted_and_quoted(capsys):
    assert bench(Stub(ends="cut"), *QUICK) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "0 completed, 3 failed" in out
    assert "3 cut" in out
    assert "failed: ConnectionError: the server closed the connection" in out


def test_where_nothing_listens_it_says_how_to_go_on(capsys):
    address = closed_address()
    assert run(["bench", "serve", f"http://{address.authority}", *QUICK]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert f"Nothing usable listens at http://{address.authority}" in err
    assert "okno bench serve http://host:port" in err


def test_a_wrong_model_is_named_with_those_there_are(capsys):
    stub = Stub(status=404, error=b'{"error": {"message": "No model `m`."}}')
    assert bench(stub, *QUICK, "--model", "m") == 1
    assert "Models served there: stub" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--rate", "0"), "--rate 0 must be more than 0"),
        (("--rate", "inf"), "--requests N"),
        (("--burstiness", "nan"), "--burstiness nan must be more than 0"),
        (("--itl-limit", "-1"), "--itl-limit -1"),
        (("--mix", "long"), "fixed:IN,OUT"),
        (("--requests", "0"), "--requests"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused_before_anything_is_sent(args, words, capsys):
    assert run(["bench", "serve", "http://127.0.0.1:1", *args]) == 2
    assert words in capsys.readouterr().err
