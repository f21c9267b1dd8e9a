"""The comparison with other servers: who is here, how each is started, what the table says."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import batched_bench, build_llama_server, scenarios
from benchmarks.peers.adapters import LlamaCppPython, LlamaServer, VllmCpu, Work, Xllamacpp, peers
from benchmarks.peers.scenarios import SCENARIOS, Scenario
from benchmarks.peers.scene import (
    CALIBRATION_WORDS,
    ScenarioFailed,
    Scene,
    Stream,
    measured_scene,
)
from benchmarks.peers.table import (
    Results,
    better,
    failure_list,
    figure_table,
    number,
    peer_table,
    ratio,
)
from okno.bench.load_client import Target
from okno.bench.load_prompts import words
from tests.bench.openai_stub import Stub, serving

WORK = Work(Path("m.gguf"), 16, 2048)
BY_KEY = {scenario.key: scenario for scenario in SCENARIOS}
STREAMS = BY_KEY["streams-16"]


def test_llama_server_gets_the_context_of_all_slots_together() -> None:
    words = LlamaServer(Path("bin"), options=("-kvu",)).command(WORK, 9)
    assert words[words.index("-c") + 1] == "32768"
    assert words[words.index("-np") + 1] == "16"
    assert words[-1] == "-kvu"
    assert "-t" not in words
    pooled = LlamaServer(Path("bin")).command(Work(Path("m"), 6, 2048, 4096, threads=2), 9)
    assert pooled[pooled.index("-c") + 1] == "4096"
    assert pooled[pooled.index("-t") + 1] == "2"


def test_okno_is_started_with_the_same_window_and_pool() -> None:
    okno = peers(None, {}, None, ["--target-itl", "0.3"])[0]
    words = okno.command(WORK, 9)
    assert okno.name == "okno"
    for flag, value in (("--batch-size", "16"), ("--ctx", "2048"), ("--kv-pool", "32768"),
                        ("--port", "9"), ("--target-itl", "0.3")):  # fmt: skip
        assert words[words.index(flag) + 1] == value


def test_every_peer_of_the_issue_is_known_and_what_is_not_here_says_so(tmp_path: Path) -> None:
    empty = tmp_path / "python"
    names = {"llama-cpp-python", "xllamacpp", "openvino-genai", "vllm", "transformers"}
    everyone = peers(tmp_path / "llama-server", dict.fromkeys(names, empty), None)
    assert len({peer.name for peer in everyone}) == len(everyone) == 9
    for peer in everyone[1:]:
        assert str(peer.missing()).startswith("not installed")
        assert peer.command(WORK, 4711).count("4711") == 1
    assert str(peers(None, {}, None)[1].missing()).startswith("not installed: give --llama-server")


def test_a_python_is_asked_for_its_modules() -> None:
    here = Xllamacpp(python=Path(sys.executable), modules=("json", "no_such_module_of_okno"))
    assert here.missing() == f"not installed: no no_such_module_of_okno in {sys.executable}"
    assert LlamaCppPython(python=Path(sys.executable), modules=("json",)).missing() is None
    needy = VllmCpu(python=Path(sys.executable), modules=("json",))
    assert "--safetensors" in str(needy.missing())


def test_the_ratio_says_how_many_times_better_okno_is() -> None:
    assert better(2.0, 10.0, "less") == 5.0
    assert better(10.0, 2.0, "more") == 5.0
    assert math.isnan(better(0.0, 1.0, "less"))
    assert (ratio(1.234), ratio(57.3), ratio(math.nan)) == ("1.23x", "57x", "-")
    assert [number(v, "s") for v in (0.0851, 5.3, 19.94)] == ["0.085 s", "5.30 s", "19.9 s"]


def test_the_table_has_medians_ratios_and_what_failed() -> None:
    results = Results()
    for ours, theirs in ((10.0, 4.0), (90.0, 5.0), (11.0, 6.0)):
        results.add(STREAMS, "okno", {"rate": ours})
        results.add(STREAMS, "other", {"rate": theirs})
    results.fail(STREAMS, "other", "it died")
    results.fail(STREAMS, "third", "refused")
    page = figure_table(results, [STREAMS], ["okno", "other", "third", "fourth"])
    row = page.splitlines()[2]
    assert row.split(" | ")[2:] == [
        "11.0 tok/s", "5.00 tok/s (1 runs failed) (2.20x)", "failed", "- |",
    ]  # fmt: skip
    results.fail(BY_KEY["one"], "third", "refused")
    told = failure_list(results, SCENARIOS)
    assert told.splitlines()[1].endswith("16 streams, short prompts (1x); one stream (1x)")
    assert told.splitlines()[0] == "- other: it died. In: 16 streams, short prompts (1x)"
    assert failure_list(Results(), [STREAMS]) == "Nothing failed.\n"


def test_missing_programs_stand_in_the_table() -> None:
    page = peer_table({"okno": "1.0"}, {"vLLM CPU": "not installed: no vllm in /usr/bin/python"})
    assert "| vLLM CPU | not installed: no vllm in /usr/bin/python |" in page


def test_batched_bench_prints_what_we_read() -> None:
    printed = (
        "main: n_kv_max = 80\n"
        '{"n_kv_max": 2560, "n_batch": 2048, "pp": 16, "tg": 64, "pl": 16, "n_kv": 1280, '
        '"speed_pp": 120.1, "speed_tg": 104.9, "speed": 90.0}\n'
        '{"pp": 16, "tg": 64, "pl": 32, "speed_tg": 108.8}\n\nllama_perf: done\n'
    )
    assert batched_bench.decode_rates(printed) == {16: 104.9, 32: 108.8}
    words = batched_bench.command(Path("b"), Path("m"), (16, 32), 2)
    assert words[words.index("-c") + 1] == str(32 * 80)
    assert words[words.index("-npl") + 1] == "16,32"


def test_llama_server_is_built_outside_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Path(build_llama_server.__file__).parent / "build"
    monkeypatch.setattr(sys, "argv", ["build_llama_server.py", str(inside)])
    with pytest.raises(SystemExit, match="outside"):
        build_llama_server.main()
    assert not inside.exists()


def test_llama_server_is_compiled_as_the_engine_is() -> None:
    """Its C++ settings are those that uv gives llama-cpp-python, generator expressions and all."""
    settings = build_llama_server.engine_settings()
    flags = build_llama_server.flags()
    assert "-fno-dse" in settings["CXX_FLAGS"]
    assert f"-DCXX_FLAGS={settings['CXX_FLAGS']}" in flags
    assert f"-DC_FLAGS={settings['C_FLAGS']}" in flags
    assert "-DGGML_NATIVE=ON" in flags
    assert "-DLLAMA_CURL=OFF" in flags


def ends(body: dict[str, Any]) -> str:
    """Live streams go on; everything else ends at once."""
    return "hold" if body["max_tokens"] > 10 else "done"


async def played(scenario: Scenario, stub: Stub, scale: float = 0.01) -> Any:
    with serving(stub) as address:
        scene = Scene(Target(address, "/v1/completions"), 1.0, seed=3, scale=scale)
        return await scenario.play(scene)


@pytest.mark.parametrize("key", BY_KEY)
async def test_a_scenario_measures_every_figure_of_its_row(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "OTHER_EVERY_S", 0.0)
    stub = Stub(texts=("a",) * 5, finish_reason="stop", ends=ends)
    figures = await played(BY_KEY[key], stub)
    assert figures.keys() == BY_KEY[key].figures.keys()
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())


async def test_sixteen_requests_on_one_prefix_share_it_and_nothing_else() -> None:
    stub = Stub(finish_reason="stop", together=16)
    await played(BY_KEY["prefix"], stub, scale=1.0)
    texts = [body["prompt"].split() for body in stub.seen]
    assert len(texts) == 16
    assert len({tuple(text[:900]) for text in texts}) == 1
    assert len({text[900] for text in texts}) == 16


async def test_an_overfull_pool_counts_failed_and_cut_answers() -> None:
    whole = await played(BY_KEY["pool"], Stub(finish_reason="stop"))
    cut = await played(BY_KEY["pool"], Stub(completion_tokens=2, finish_reason="length"))
    refused = await played(BY_KEY["pool"], Stub(status=400))
    assert (whole["failed"], cut["failed"], refused["failed"]) == (0, 6, 6)


async def test_the_flood_and_the_other_are_two_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "OTHER_EVERY_S", 0.0)
    await played(BY_KEY["flood"], stub := Stub(finish_reason="stop"), scale=0.1)
    assert {body["user"] for body in stub.seen} == {"flood", "other"}


@pytest.mark.parametrize("key", ["stall", "prefix", "streams-16", "one", "waiting", "mixed"])
async def test_a_server_that_refuses_fails_the_scenario_with_its_own_words(key: str) -> None:
    stub = Stub(status=500, error=b'{"error": {"message": "all killed"}}')
    with pytest.raises(ScenarioFailed, match="all killed"):
        await played(BY_KEY[key], stub)


async def test_a_stream_that_ended_before_the_prompt_was_read_tells_no_gap() -> None:
    with serving(Stub(texts=("a",) * 5, finish_reason="stop")) as address:
        scene = Scene(Target(address, "/v1/completions"), 1.0, seed=3)
        stream = Stream(scene, scene.request(0, 16, 5))
        await stream.task
        last_s = stream.times_s[-1]
        assert len(stream.gaps_s(0.0, last_s)) == 4
        with pytest.raises(ScenarioFailed, match="ended before"):
            stream.gaps_s(0.0, last_s + 0.001)


async def test_tokens_per_word_come_from_the_server() -> None:
    with serving(Stub()) as address:
        scene = await measured_scene(Target(address, "/v1/completions"), 1, 1.0)
    parts = math.ceil(len(words()) / CALIBRATION_WORDS)
    assert scene.tokens_per_word == pytest.approx(parts * 11 / len(words()))
    request = Scene(Target(address, "/v1/completions"), 2.5, 1).request(0, 1000, 4)
    assert len(request.prompt.split()) == 400
