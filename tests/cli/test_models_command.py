"""`okno models`, and which server `okno chat` talks to."""

from __future__ import annotations

import json
import os
from typing import ClassVar

import pytest
import typer

from okno.cli import chat as chat_module
from okno.cli import partner as partner_module
from okno.cli.app import load_command, run
from okno.cli.chat_session import Session
from okno.cli.options import GivenFlags, with_settings
from okno.cli.partner import local_url, private_flags
from okno.config.load import Given, load
from okno.core.errors import EngineFailed
from okno.inspect.models import find_local
from tests.cli.support import OKNO
from tests.cli.test_end_to_end import Served
from tests.lora import peft_tensors, random_factors, write_adapter, write_peft


@pytest.fixture(autouse=True)
def _no_okno_variables(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)


def test_models_lists_the_demo_and_the_folder_with_sizes(tmp_path, capsys):
    (tmp_path / "saiga.gguf").write_bytes(b"GGUF" + bytes(2 << 20))
    (tmp_path / "gptq").mkdir()
    (tmp_path / "gptq" / "gptq_model.safetensors").write_bytes(b"")
    assert run(["models", "--models-dir", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    demo, saiga, gptq = captured.out.splitlines()
    assert demo.startswith("demo ")
    assert saiga.startswith("saiga ")
    assert "2.0 MiB" in saiga
    assert gptq.startswith("gptq ")
    assert "gptq: " in captured.err  # what is wrong with it
    assert str(tmp_path) in captured.err


def test_models_tells_what_is_in_the_files(tmp_path, capsys, make_model):
    (tmp_path / "small.gguf").write_bytes(make_model("gemma3-tiny", "F16").read_bytes())
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    assert run(["models", "--models-dir", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    demo, broken, small = captured.out.splitlines()
    assert "llama 4.4 M F16, ctx 1,024" in demo
    assert "gemma3 0.4 M F16, ctx 1,024" in small
    assert "cannot be read" in broken
    assert "broken: " in captured.err
    assert "GGUF version 0" in captured.err
    assert run(["models", "--json", "--models-dir", str(tmp_path)]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["small"]["architecture"] == "gemma3"
    assert found["small"]["ctx_train"] == 1024
    assert found["small"]["n_layer"] == 6
    assert "GGUF version 0" in found["broken"]["problem"]


def test_an_adapter_is_listed_as_one_and_never_taken_for_a_model(tmp_path, capsys, make_model):
    base = make_model("tiny", "F16")
    folder = tmp_path / "my models"
    folder.mkdir()
    (folder / "saiga-7b.gguf").write_bytes(base.read_bytes())
    write_adapter(folder / "saiga-lora.gguf", random_factors(base))
    write_peft(folder / "peft", peft_tensors(base, random_factors(base)))
    assert run(["models", "--json", "--models-dir", str(folder)]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: entry["format"] for name, entry in found.items()} == {
        "demo": "GGUF", "saiga-7b": "GGUF", "saiga-lora": "LoRA", "peft": "LoRA",
    }  # fmt: skip
    assert "problem" not in found["saiga-lora"]
    assert run(["models", "--models-dir", str(folder)]) == 0
    assert capsys.readouterr().out.count("LoRA adapter, for --lora") == 2
    assert find_local("saiga", folder).name == "saiga-7b", "of several the one that is a model"
    for asked in ("saiga-lora", str(folder / "saiga-lora.gguf"), "peft", str(folder / "peft")):
        for command in ("serve", "plan", "tokens"):
            flag = [] if command == "plan" else ["--model"]
            text = [__file__] if command == "tokens" else []
            code = run([command, *text, *flag, asked, "--models-dir", str(folder)])
            said = capsys.readouterr().err
            assert (code, "is a LoRA adapter, a change to a model" in said) == (1, True), said
            assert "`--lora '" in said, "the path has a space"


def test_models_for_programs_is_json_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OKNO_MODELS_DIR", str(tmp_path / "missing"))
    assert run(["models", "--json"]) == 0
    captured = capsys.readouterr()
    (demo,) = json.loads(captured.out)
    assert demo["name"] == "demo"
    assert demo["size_bytes"] > 0
    assert captured.err == ""


def no_private_server(*_: object) -> None:
    raise EngineFailed("a private server was started")


@pytest.fixture
def served(monkeypatch):
    """A scripted server that calls itself demo, where OKNO_PORT says."""
    server = Served(OKNO, "serve", "--port", "0", "--alias", "demo", OKNO_ENGINE="scripted")
    monkeypatch.setenv("OKNO_PORT", server.url.rpartition(":")[2])
    monkeypatch.setattr(partner_module, "_private", no_private_server)
    yield server
    server.process.kill()
    server.process.communicate()


def test_chat_uses_a_running_server_only_when_it_is_what_was_asked_for(served, capsys, tmp_path):
    assert run(["chat", "say hi"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "hi\n"
    assert f"Using the server at {served.url}." in captured.err

    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    other_model = ["--model", str(tmp_path / "other.gguf")]
    for asked in (other_model, ["--ctx", "64"], ["--batch-size", "1"]):
        assert run(["chat", *asked, "say hi"]) == 1
        assert "a private server was started" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:7860"),
        ({"OKNO_PORT": "8080"}, "http://127.0.0.1:8080"),
        ({"OKNO_HOST": "::1"}, "http://[::1]:7860"),
        ({"OKNO_HOST": "llm.home"}, "http://llm.home:7860"),
        ({"OKNO_LISTEN": "1"}, "http://127.0.0.1:7860"),
        ({"OKNO_HOST": "::"}, "http://[::1]:7860"),
    ],
)
def test_chat_looks_where_serve_would_listen(environment, url):
    assert local_url(load([], environment).settings) == url


class Recorded(Session):
    """A session that answers nothing; `options` are what it would have asked for."""

    made: ClassVar[list[Session]] = []

    def ask_once(self, text: str) -> None:
        self.made.append(self)


@pytest.fixture
def sessions(monkeypatch) -> list[Session]:
    monkeypatch.setattr(chat_module, "Session", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    return Recorded.made


def test_only_the_demo_file_itself_is_greedy_by_default(sessions, monkeypatch, tmp_path):
    """Not a running server that serves something under its name, nor a file called like it."""
    monkeypatch.setenv("OKNO_ENGINE", "scripted")
    monkeypatch.setenv("OKNO_PORT", "0")  # nobody answers there
    (tmp_path / "demo.gguf").write_bytes(b"GGUF")
    named_alike = ["--model", str(tmp_path / "demo.gguf")]
    for flags in ([], named_alike, ["--temp", "0.5"]):
        assert run(["chat", *flags, "hello"]) == 0
    assert [session.options.temperature for session in sessions] == [0.0, None, 0.5]


def test_a_running_server_called_demo_keeps_its_temperature(served, sessions):
    assert run(["chat", "hello"]) == 0
    assert sessions[0].info.url == served.url
    assert sessions[0].options.temperature is None


def test_the_private_server_gets_the_settings_but_never_a_key_on_its_command_line():
    given = [
        ("ctx", Given("64", "command line", "--n-ctx")),
        ("api_key", Given("secret", "command line", "--api-key")),
    ]
    assert private_flags(given) == ["--ctx", "64"]


def test_the_private_server_gets_switches_and_lists_as_serve_takes_them():
    """What `okno chat` was given, read back by the settings of `okno serve`."""
    given = [
        ("load_in_4bit", Given(True, "command line", "--load-in-4bit")),
        ("prefix_cache", Given(False, "command line", "--no-prefix-cache")),
        ("lora", Given(["a=my loras/a.gguf:0.5", "b.gguf"], "command line", "--lora")),
    ]
    flags = private_flags(given)
    assert flags[:2] == ["--load-in-4bit", "--no-prefix-cache"]
    taken: list[GivenFlags] = []

    @with_settings("load_in_4bit", "prefix_cache", "lora")
    def command(given: GivenFlags) -> None:
        taken.append(given)

    app = typer.Typer()
    app.command()(command)
    typer.main.get_command(app).main(flags, standalone_mode=False)
    settings = load(taken[0], {}).settings
    assert (settings.load_in_4bit, settings.prefix_cache) == (True, False)
    assert settings.lora == ("a=my loras/a.gguf:0.5", "b.gguf")


def test_chat_in_fewer_bits_or_with_an_adapter_starts_a_server_of_its_own(served, capsys):
    for flags in (["--load-in-8bit"], ["--load-in-4bit"], ["--lora", "a.gguf"]):
        assert run(["chat", *flags, "say hi"]) == 1
        assert "a private server was started" in capsys.readouterr().err
    assert run(["chat", "--load-in-8bit", "--load-in-4bit", "say hi"]) == 2
    assert "contradict each other" in capsys.readouterr().err
    assert run(["chat", "--url", served.url, "--load-in-8bit", "hi"]) == 2
    assert "--load-in-8bit is for a server started here" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "chat", "plan", "tune", "depth", "tokens", "convert"])
@pytest.mark.parametrize("flag", ["--load-in-8bit", "--load-in-4bit"])
def test_every_command_that_loads_a_model_takes_the_flag(command, flag, capsys):
    options = [name for param in load_command(command).params for name in param.opts]
    assert flag in options
