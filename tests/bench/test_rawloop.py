from __future__ import annotations

import json

import pytest

from okno.bench.equality import Text, alone
from okno.bench.raw import RawOptions, open_raw
from okno.bench.rawloop import main, prompt_of, run_raw
from okno.core.errors import ModelUnusable
from tests.conftest import MakeModel


def test_the_loop_generates_greedily_and_repeats_itself(make_model: MakeModel) -> None:
    with open_raw(make_model("tiny"), RawOptions(ctx=256)) as engine:
        prompt = prompt_of(20, engine.n_vocab)
        run, tokens = run_raw(engine, prompt, 30)
        _, again = run_raw(engine, prompt, 30)
        forced = alone(engine, Text(tuple(prompt), tuple(tokens[:-1])))
    assert tokens == again == forced.argmax(axis=1).tolist()
    assert (run.prompt_tokens, run.generated_tokens) == (20, 30)


def test_a_run_longer_than_the_window_fails(make_model: MakeModel) -> None:
    with open_raw(make_model("tiny"), RawOptions(ctx=256)) as engine:
        prompt = prompt_of(250, engine.n_vocab)
        with pytest.raises(RuntimeError, match="window"):
            run_raw(engine, prompt, 30)


def test_the_command_prints_its_figures(
    make_model: MakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(make_model("tiny")), "--tokens", "8", "--prompt-tokens", "5", "--ctx", "256"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["generated_tokens"] == 8
    assert figures["decode_tokens_per_s"] == pytest.approx(7 / figures["decode_s"])


def test_a_file_that_is_no_model_is_refused(make_model: MakeModel) -> None:
    path = make_model("tiny").with_name("cut.gguf")
    path.write_bytes(make_model("tiny").read_bytes()[:5000])
    with pytest.raises(ModelUnusable, match="cut"), open_raw(path):
        pass
