"""`okno config ...` as typed, and `okno serve` with a settings file."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import gguf
import httpx
import pytest

from okno.cli.app import run
from okno.cli.private_server import PrivateServer
from okno.config.sample import sample
from okno.config.schema import schema
from okno.config.tree import entries
from okno.inspect.models import demo_model
from tests.cli.support import clean_environment, okno

FILE = "generation_config.yaml"


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """An empty current folder and an empty user config folder."""
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return folder


def outcome(capsys, *args: str) -> tuple[int, str, str]:
    code = run(["config", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def text() -> str:
    return Path(FILE).read_text(encoding="utf-8")


def told(capsys, *args: str) -> dict[str, dict[str, object]]:
    code, out, _ = outcome(capsys, "explain", "--json", *args)
    assert code == 0
    return {one["key"]: one for one in json.loads(out)["settings"]}


def test_init_writes_the_sample_once(capsys):
    assert outcome(capsys, "init") == (
        0, f"{FILE} is written: every setting with its default, commented out.\n", "",
    )  # fmt: skip
    assert text() == sample()
    Path(FILE).write_text("top_k: 1\n")
    code, _, err = outcome(capsys, "init")
    assert code == 2
    assert err.startswith(f"error: {FILE} is there already and is left as it is.")
    assert text() == "top_k: 1\n"
    Path("link.yaml").symlink_to("nowhere")
    assert outcome(capsys, "init", "link.yaml")[0] == 2
    assert not Path("nowhere").exists()


def test_set_and_unset_go_back_and_forth(capsys):
    outcome(capsys, "init")
    for key, value in (("temperature", "0.7"), ("ctx", "64"), ("presence-penalty", "-0.5"),
                       ("stop_strings", '["a", "б"]'), ("server.log_level", "info")):  # fmt: skip
        assert outcome(capsys, "set", key, value) == (0, f"{FILE}: {key} is set.\n", "")
    rows = told(capsys)
    assert rows["temperature"]["value"] == 0.7
    assert rows["load.ctx"]["origin"].startswith(f"{FILE}, line ")
    assert rows["presence_penalty"]["value"] == -0.5
    assert rows["stop_strings"]["value"] == ["a", "б"]
    for key in ("temperature", "load.ctx", "presence_penalty", "stop_strings", "log-level"):
        assert outcome(capsys, "unset", key)[0] == 0
    assert text() == sample()


def test_set_makes_the_file_that_is_not_there(capsys):
    assert outcome(capsys, "set", "top_k", "5")[0] == 0
    assert text().endswith("\ntop_k: 5\n")
    assert outcome(capsys, "set", "top_k", "6", "--config", "deep/my.json")[0] == 0
    assert json.loads(Path("deep/my.json").read_text()) == {"top_k": 6}
    assert outcome(capsys, "set", "top_k", "6", "--config", "none")[2] == (
        "error: --config none means no settings file; name the one to change.\n"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("set", "temprature", "1"), "temprature is not a setting of the file. Did you mean "
         "temperature?"),
        (("set", "top_p", "2"), f"{FILE}, line 2: top_p: 2: it must be at most 1."),
        (("set", "kv_pool", "32"), "--kv-pool 32 is smaller than --ctx 64: not even one request "
         "would fit. Give at least 64, or leave --kv-pool out. --ctx comes from "
         f"{FILE}, line 3. --kv-pool comes from {FILE}, line 4."),
        (("set", "server.listen", "true"), f"{FILE}, line 5: `server.listen` decides who may reach "
         f"this machine, so it counts only in a file that you name: add --config {FILE}."),
        (("unset", "top_k"), f"{FILE} does not set `top_k`; nothing to take out."),
        (("explain", "--ctx", "5"), "--ctx 5: it must be at least 16."),
        (("explain", "--jinja"), "--jinja: Chat templates are always rendered with Jinja: leave it "
         "out."),
        (("show", "--config", "x.yaml"), "There is no settings file x.yaml. `okno config init` "
         "writes a commented one."),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(capsys, args, said):
    before = "seed: 1\nload:\n  ctx: 64\n"
    Path(FILE).write_text(before)
    code, out, err = outcome(capsys, *args)
    assert (code, out) == (2, "")
    assert err == f"error: {said}\n"
    assert text() == before


@pytest.mark.parametrize("command", [("init",), ("check",), ("set", "top_k", "1", "--config")])
def test_a_file_of_an_unknown_user_is_refused(capsys, command):
    code, out, err = outcome(capsys, *command, "~okno-no-such-user/x.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("error: '~okno-no-such-user/x.yaml' begins with the home folder of")


def test_a_stop_string_in_brackets_is_set_as_it_is_typed(capsys):
    assert outcome(capsys, "set", "stop_strings", "[/INST]")[0] == 0
    assert told(capsys)["stop_strings"]["value"] == ["[/INST]"]


def test_unset_without_a_file(capsys):
    assert outcome(capsys, "unset", "top_k")[2] == (
        "error: There is no settings file, so nothing sets 'top_k'.\n"
    )


def test_check_names_every_mistake(capsys):
    Path("x.yaml").write_text("top_k: x\nload:\n  ctx: 64\n  batchsize: 1\n")
    assert outcome(capsys, "check", "x.yaml") == (
        1, "",
        "x.yaml, line 1: `top_k` is `x`; it must be a whole number from 0 to 2,147,483,647.\n"
        "x.yaml, line 4: `batchsize` is not known under `load:`. Did you mean `batch_size` under "
        "`load:`?\n",
    )  # fmt: skip
    Path("x.yaml").write_text("top_p: 3\n")
    assert outcome(capsys, "check", "x.yaml")[::2] == (
        1, "x.yaml, line 1: top_p: 3: it must be at most 1.\n",
    )  # fmt: skip
    Path("x.yaml").write_text("top_p: 0.5\neos_token_id: 2\n")
    code, out, err = outcome(capsys, "check", "x.yaml")
    assert (code, out) == (0, "x.yaml is good: 1 setting.\n")
    assert err.startswith("x.yaml, line 2: `eos_token_id` is not used")


def test_path_tells_the_file_in_use_or_where_it_was_looked_for(capsys, here):
    code, out, err = outcome(capsys, "path")
    assert (code, out) == (1, "")
    assert err.startswith(f"No settings file: neither {FILE} nor ")
    outcome(capsys, "init")
    assert outcome(capsys, "path") == (0, f"{here / FILE}\n", "")


def test_schema_prints_the_schema(capsys):
    assert json.loads(outcome(capsys, "schema")[1]) == schema()


def test_explain_is_a_table_of_all_settings(capsys, monkeypatch):
    Path(FILE).write_text("top_p: 0.9\nserver:\n  api_key: s3cret\n")
    monkeypatch.setenv("OKNO_MIN_P", "0.1")
    code, out, err = outcome(capsys, "explain", "--ctx", "64", "--config", FILE)
    assert code == 0
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()}
    assert lines["top_p"] == f"0.9 file: {FILE}, line 1"
    assert lines["min_p"] == "0.1 environment: OKNO_MIN_P"
    assert lines["load.ctx"] == "64 command line: --ctx"
    assert lines["server.api_key"] == f'"(hidden)" file: {FILE}, line 3'
    assert lines["load.batch_size"] == "auto default"
    assert len(lines) == len(entries()) + 1
    assert err == f"note: Settings from {FILE}.\n"
    assert "s3cret" not in out


def test_explain_on_a_terminal_fits_it(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    out = re.sub(r"\x1b\[[0-9;]*m", "", outcome(capsys, "explain")[1])
    assert "load.batch_size" in out
    assert max(map(len, out.splitlines())) <= 60


def test_show_is_a_file_again(capsys):
    Path(FILE).write_text("load:\n  ctx: 64\n")
    shown = outcome(capsys, "show", "--top-k", "9")[1]
    assert "\ntop_k: 9\n" in shown
    assert "\n  ctx: 64\n" in shown
    Path("again.yaml").write_text(shown)
    assert outcome(capsys, "show", "--config", "again.yaml")[1] == shown
    plain = json.loads(outcome(capsys, "show", "--json")[1])
    assert (plain["top_k"], plain["load"]["ctx"]) == (0, 64)


def test_a_model_that_is_not_there_is_said_and_the_rest_explained(capsys):
    code, out, err = outcome(capsys, "explain", "--model", "nobody")
    assert code == 0
    assert "load.model" in out
    assert err.startswith("note: without what comes with the model: ")


# What comes with a model --------------------------------------------------------------------------


def model_with(path: Path, **sampling: float) -> Path:
    """A GGUF header with `general.sampling.*`, without tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in sampling.items():
        if isinstance(value, float):
            writer.add_float32(f"general.sampling.{name}", value)
        else:
            writer.add_int32(f"general.sampling.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_the_header_and_the_file_beside_a_model_are_used(capsys, tmp_path):
    model = model_with(tmp_path / "m.gguf", temp=0.6, top_k=40)
    (tmp_path / "generation_config.json").write_text('{"top_k": 20, "num_beams": 3}')
    rows = told(capsys, "--model", str(model))
    assert (rows["temperature"]["value"], rows["temperature"]["source"]) == (0.6, "model")
    assert rows["temperature"]["origin"] == "the header of m.gguf, general.sampling.temp"
    assert rows["top_k"]["origin"] == "the model's own generation_config.json, line 1"
    err = outcome(capsys, "explain", "--model", str(model), "--top-k", "3")[2]
    assert "note: num_beams 3 is left out: okno has no beam search; leave it out" in err
    assert "note: Generation settings that come with the model: temperature 0.6.\n" in err


def test_what_comes_with_a_model_can_be_left_out(capsys, tmp_path):
    model = model_with(tmp_path / "m.gguf", temp=0.6)
    rows = told(capsys, "--model", str(model), "--no-model-defaults")
    assert rows["temperature"]["source"] == "default"


# A real server ------------------------------------------------------------------------------------


def test_a_served_model_uses_the_file_and_requests_win(tmp_path):
    """The demo model, copied beside a generation_config.json of its own."""
    shutil.copy(demo_model().path, tmp_path / "mine.gguf")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.25, "max_new_tokens": 9}')
    file = tmp_path / "my.yaml"
    file.write_text(
        f"max_new_tokens: 3\ndo_sample: false\nserver: {{listen: true}}\n"
        f"load:\n  model: {tmp_path / 'mine.gguf'}\n  ctx: 256\n  batch_size: auto\n"
    )
    with PrivateServer(["--config", str(file)], clean_environment()) as server:
        url = server.wait_ready(lambda _: None, lambda _: None)
        client = httpx.Client(base_url=url, headers={"x-api-key": server.api_key}, timeout=60)
        rows = {one["key"]: one for one in client.get("/okno/v1/config").json()["settings"]}
        bare = client.post("/v1/completions", json={"prompt": "okno is"}).json()
        more = client.post("/v1/completions", json={"prompt": "okno is", "max_tokens": 5}).json()
        again = client.post("/v1/completions", json={"prompt": "okno is"}).json()
    assert (rows["load.ctx"]["value"], rows["load.ctx"]["in_effect"]) == (256, 256)
    assert rows["load.batch_size"]["value"] == "auto"
    assert rows["load.batch_size"]["in_effect"] >= 1
    assert (rows["temperature"]["value"], rows["temperature"]["source"]) == (0.0, "file")
    assert rows["server.listen"]["value"] is False, "--host of the private server is stronger"
    assert bare["usage"]["completion_tokens"] == 3
    assert more["usage"]["completion_tokens"] == 5
    assert bare["choices"][0]["text"] == again["choices"][0]["text"], "greedy"


def test_serve_says_which_file_it_reads():
    Path("x.yaml").write_text("load:\n  ctx: 5\n")
    found = okno("serve", "--config", str(Path("x.yaml").absolute()))
    assert found.returncode == 2
    assert found.stderr == "error: x.yaml, line 2: load.ctx: 5: it must be at least 16.\n"
    Path("x.yaml").write_text("server:\n  host: 192.0.2.1\n")
    said = okno("serve", "--config", str(Path("x.yaml").absolute())).stderr
    assert said.startswith(f"note: Settings from {Path('x.yaml').absolute()}.\n")
