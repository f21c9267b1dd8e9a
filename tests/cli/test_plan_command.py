"""`okno plan` and `okno recommend` as they are typed and read."""

from __future__ import annotations

import json
import os
import re

import pytest

from okno.advisor import request as request_module
from okno.advisor.request import goal_of
from okno.bench import calibrate as calibrate_module
from okno.bench import worker_memory
from okno.cli.app import run
from okno.cli.tables_memory import BAR_WIDTH, memory_bars
from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.inspect.hardware.engine import engine_name
from okno.inspect.models import demo_model
from okno.plan.memory import Overhead
from tests.lora import peft_tensors, random_factors, write_adapter, write_peft
from tests.plan.speed_cases import calibration

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _no_okno_variables(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def outcome(capsys, *args: str) -> tuple[int, str, str]:
    code = run(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_plan_in_80_columns_without_colour_says_everything(capsys):
    code, out, _ = outcome(capsys, "plan", "demo")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    for part in ("Machine", "Model", "Memory of every window", "Speed, predicted", "Why",
                 "Your table", "okno calibrate", "W weights", "K KV"):  # fmt: skip
        assert part in out, part
    assert re.search(r"^ +\*\d+ ", out, re.MULTILINE), "the pick is marked"


def test_a_plan_in_fewer_bits_is_that_of_the_file_that_would_be_loaded(
    capsys, make_model, monkeypatch
):
    def planned(*args: str) -> str:
        code, out, err = outcome(capsys, "plan", *args, "--json")
        assert code == 0, err
        return str(json.loads(out)["model"]["file_type"])

    floats, eight, four = (str(make_model("tiny", kind)) for kind in ("F16", "Q8_0", "Q4_0"))
    assert planned(floats, "--load-in-8bit") == planned(floats, "--quant", "q8_0") == "Q8_0"
    assert planned(floats, "--load-in-4bit") in ("Q4_K_M", "Q4_0")
    assert planned(eight, "--load-in-4bit") in ("Q4_K_M", "Q4_0")
    assert (planned(eight, "--load-in-8bit"), planned(four, "--load-in-8bit")) == ("Q8_0", "Q4_0")
    assert planned("saiga2_13b", "--load-in-8bit", "--memory", "64GB") == "Q8_0"
    code, _, err = outcome(capsys, "plan", floats, "--quant", "q8_0", "--load-in-4bit")
    assert (code, "--load-in-4bit and --quant both say" in err) == (2, True)
    monkeypatch.setenv("OKNO_LOAD_IN_4BIT", "1")
    assert planned(floats, "--quant", "q8_0") == "Q8_0", "the command line says more"


def test_the_users_own_command_is_judged(capsys):
    command = ["plan", "saiga2_13b", "--quant", "gptq-4bit", "--batch-size", "1", "--ctx", "2048",
               "--device", "cuda", "--memory"]  # fmt: skip
    code, out, _ = outcome(capsys, *command, "8GB")
    assert code == 1
    assert "Batch 1 x ctx 2,048 does not fit" in out
    assert "too much on CUDA0" in out
    assert "--gpu-layers" in out
    code, out, _ = outcome(capsys, *command, "12GB")
    assert code == 0
    assert "Batch 1 x ctx 2,048 fits." in out
    assert "Your table, 8 GB: batch 1, ctx 1,024-2,048" in " ".join(out.split())


def test_json_is_json_and_nothing_else(capsys):
    code, out, err = outcome(capsys, "plan", "demo", "--json", "--batch_size", "4")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["pick"]["batch_size"] == 4
    assert {w["batch_size"] for w in told["windows"]} == {4}


@pytest.mark.parametrize("command", ["plan demo", "recommend --task reranker"])
def test_the_goal_is_typed_or_of_the_environment_or_the_file(
    capsys, monkeypatch, tmp_path, command
):
    """In this order, as for `okno serve`."""
    (tmp_path / "generation_config.yaml").write_text(
        "load:\n  prefer: users\n  max_ttft: 70\n  min_tok_s: 0.1\n"
    )
    monkeypatch.setenv("OKNO_MAX_TTFT", "80")
    monkeypatch.setenv("OKNO_MIN_TOK_S", "0.2")
    goals = []

    def caught(words):
        goals.append(goal_of(words))
        return goals[-1]

    monkeypatch.setattr(request_module, "goal_of", caught)
    assert outcome(capsys, *command.split(), "--min-tok-s", "0.3")[0] == 0
    (goal,) = goals
    assert (goal.prefer, goal.max_ttft_s, goal.min_tok_s) == ("users", 80, 0.3)


def test_calibrating_first_leaves_nothing_but_json_for_programs(capsys, monkeypatch):
    def measure(threads, budget_s, on_progress, *, fingerprint):
        return calibration(machine=fingerprint, engine=engine_name())

    monkeypatch.setattr(calibrate_module, "calibrate", measure)
    monkeypatch.setattr(worker_memory, "measure_overhead", lambda _: Overhead())
    code, out, _ = outcome(capsys, "plan", "demo", "--calibrate", "--json")
    assert (code, json.loads(out)["model"]["name"]) == (0, "demo")
    assert outcome(capsys, "calibrate", "--show")[0] == 0, "it is kept"
    code, out, _ = outcome(capsys, "plan", "demo", "--calibrate")
    assert code == 0
    assert "Weights are read at" in out


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--batch-size", "lots"], "batch_size"), (["--ctx", "1"], "ctx"),
        (["--prefer", "luck"], "prefer"), (["--memory", "8"], "--memory"),
        (["--device", "abacus"], "abacus"), (["--quant", "q99"], "q99"),
        (["--kv-type", "q1"], "kv_type"), (["--max-ttft", "-1"], "--max-ttft"),
        (["--calibrate", "--memory", "8GB"], "what-if"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_named(capsys, flags, word):
    code, out, err = outcome(capsys, "plan", "demo", *flags)
    assert (code, out) == (2, "")
    assert word in err


def test_an_unknown_model_is_an_error_with_the_nearest(capsys):
    code, _, err = outcome(capsys, "plan", "saiga_mistral_8b_xyz")
    assert code == 1
    assert "saiga_mistral" in err


def test_recommend_in_80_columns(capsys):
    code, out, _ = outcome(
        capsys, "recommend", "--task", "embedding", "--top", "3", "--device", "cuda",
        "--memory", "8GB",
    )  # fmt: skip
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "  3. " in out
    assert "  4. " not in out
    assert "licence" in out
    assert "Order: " in out


def test_recommend_for_programs(capsys):
    code, out, _ = outcome(capsys, "recommend", "--task", "reranker", "--json")
    assert code == 0
    assert json.loads(out)["models"]
    assert outcome(capsys, "recommend", "--task", "dance")[0] == 2


def parts(**gib: float) -> MemoryParts:
    return MemoryParts(**{f"{name}_bytes": int(size * GIB) for name, size in gib.items()})


def test_a_bar_is_as_long_as_its_parts():
    memory = MemoryPlan((DeviceMemory("cpu", parts(weights=2, kv=1), 4 * GIB),), "closed form")
    bar, legend = (str(line) for line in memory_bars(memory))
    assert bar.strip() == "W" * (BAR_WIDTH // 2) + "K" * (BAR_WIDTH // 4) + "·" * (BAR_WIDTH // 4)
    assert "1.0 GiB left" in legend


def test_a_bar_beyond_what_is_free_shows_where_that_ends():
    memory = MemoryPlan((DeviceMemory("CUDA0", parts(weights=4), 3 * GIB),), "closed form")
    bar, legend = (str(line) for line in memory_bars(memory))
    assert bar.strip() == "W" * (BAR_WIDTH * 3 // 4) + "|" + "W" * (BAR_WIDTH // 4)
    assert "1.0 GiB too much" in legend


def planned(capsys, *args: str) -> dict[str, int]:
    """The parts of main memory of one window of the demo model."""
    window = ("--batch-size", "2", "--ctx", "512")
    code, out, _ = outcome(capsys, "plan", "demo", *window, "--json", *args)
    assert code == 0
    [device] = json.loads(out)["asked"]["memory"]["devices"]
    return {**device["parts"], "needed_bytes": device["needed_bytes"]}


def test_a_draft_model_and_swap_space_are_part_of_the_plan(capsys):
    alone = planned(capsys)
    assert alone["draft_bytes"] == alone["swap_bytes"] == 0
    with_draft = planned(capsys, "--draft", "demo", "--swap-space", "0.5")
    model = sum(alone[f"{part}_bytes"] for part in ("weights", "kv", "compute", "output"))
    assert with_draft["draft_bytes"] == model + alone["repacked_bytes"]
    assert with_draft["swap_bytes"] == GIB // 2
    more = with_draft["needed_bytes"] - alone["needed_bytes"]
    assert more == with_draft["draft_bytes"] + GIB // 2


def test_a_prediction_head_is_part_of_the_plan_unless_it_is_not_to_guess(capsys, make_model):
    path = str(make_model("glm-mtp-tiny"))

    def drafts(*args: str) -> int:
        window = ("--batch-size", "2", "--ctx", "512")
        code, out, _ = outcome(capsys, "plan", path, *window, "--json", *args)
        assert code == 0
        [device] = json.loads(out)["asked"]["memory"]["devices"]
        return device["parts"]["draft_bytes"]

    assert drafts() > 0
    assert drafts("--speculate", "lookup") == 0
    code, _, err = outcome(capsys, "plan", "demo", "--speculate", "mtp")
    assert code == 2
    assert "no prediction head" in err


def test_adapters_are_part_of_the_plan_converted_or_not(capsys, tmp_path):
    demo = demo_model().path
    factors = random_factors(demo)
    file = write_adapter(tmp_path / "a.gguf", factors)
    folder = write_peft(tmp_path / "peft", peft_tensors(demo, factors))
    bytes_ = sum(one.a.nbytes + one.b.nbytes for one in factors.values())
    for asked in (file, folder):
        assert planned(capsys, "--lora", f"{asked}:0.5")["adapter_bytes"] == bytes_
    assert (
        planned(capsys, "--lora", str(file), "--lora", str(folder))["adapter_bytes"] == 2 * bytes_
    )
    code, _, err = outcome(capsys, "plan", "demo", "--lora", str(tmp_path / "none.gguf"))
    assert (code, "no adapter" in err) == (1, True)


def test_what_a_swap_space_takes_may_be_too_much(capsys):
    code, out, _ = outcome(capsys, "plan", "demo", "--batch-size", "1", "--ctx", "512",
                           "--swap-space", "60000")  # fmt: skip
    assert code == 1
    assert "does not fit" in out
