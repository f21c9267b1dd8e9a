"""`okno pull`, `okno rm`, what `okno models` lists of them, and serving from the hub by name."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from okno.cli import offer as offer_module
from okno.cli.app import run
from okno.convert.ready import converted_folder
from okno.inspect.hub_home import hub_cache
from okno.inspect.models import demo_model
from tests.cli.support import OKNO, clean_environment, okno
from tests.cli.test_end_to_end import Served
from tests.convert.hub import Hub, Repo, serving
from tests.convert.small import small_checkpoint
from tests.convert.test_fetch import Q4, checkpoint

DEMO = demo_model().path.read_bytes()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    for name in [name for name in os.environ if name.startswith("OKNO_")]:
        monkeypatch.delenv(name)
    found = Hub({
        "owner/okno-GGUF": Repo({"okno.F16.gguf": DEMO, "okno.Q4_0.gguf": Q4}),
        "owner/saiga": Repo(checkpoint()),
    })  # fmt: skip
    with serving(found):
        for name, value in (
            ("HF_ENDPOINT", found.url), ("HF_HOME", str(tmp_path / "hf")),
            ("NO_PROXY", "127.0.0.1,localhost"), ("OKNO_MODELS_DIR", str(tmp_path / "models")),
            ("OKNO_DATA_DIR", str(tmp_path / "data")), ("OKNO_PORT", "1"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        (tmp_path / "models").mkdir()
        yield found


def listed(capsys) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert run(["models", "--json"]) == 0
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}


def test_pull_says_size_place_and_how_it_runs_here_then_downloads(hub, capsys):
    assert run(["pull", "owner/okno-GGUF:F16", "--yes"]) == 0
    captured = capsys.readouterr()
    path = Path(captured.out.strip())
    assert path.read_bytes() == DEMO
    assert path.is_relative_to(hub_cache())
    said = captured.err.splitlines()
    assert said[0] == f"owner/okno-GGUF at {'c' * 12}: 8.5 MiB, okno.F16.gguf."
    assert said[1].startswith(f"8.5 MiB to download into {hub_cache()}, where ")
    assert said[2].startswith("Here it would run with batch ")
    assert "It needs " in said[2]
    assert said[-1] == "Here now; `okno serve --model owner/okno-GGUF:F16` serves it."
    assert listed(capsys)["okno.F16"]["place"] == "hub"


def test_pull_again_downloads_nothing_and_checks(hub, capsys):
    assert run(["pull", "owner/okno-GGUF:F16", "--yes"]) == 0
    hub.asked.clear()
    assert run(["pull", "owner/okno-GGUF:F16"]) == 0
    assert "All of it is here already" in capsys.readouterr().err
    assert not [one for one in hub.asked if one.path.startswith("/large/") and one.range is None]


def test_pull_asks_a_person_and_no_means_no(hub, capsys, monkeypatch):
    answers = iter(["n\n", "y\n"])
    monkeypatch.setattr("sys.stdin", Terminal(answers))
    assert run(["pull", "owner/okno-GGUF:F16"]) == 1
    assert "Nothing was downloaded." in capsys.readouterr().err
    assert not list(hub_cache().rglob("*.gguf"))
    assert run(["pull", "owner/okno-GGUF:F16"]) == 0


class Terminal:
    """A person who types these lines."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def isatty(self) -> bool:
        return True

    def readline(self, *_: object) -> str:
        return next(self._lines)


def test_a_terminal_gets_a_question_and_a_bar(hub):
    """A real one: the plan, the question, bytes and rate while it comes."""
    ours, theirs = pty.openpty()
    environment = clean_environment(TERM="xterm", COLUMNS="100", **okno_variables())
    command = [*OKNO, "pull", "owner/okno-GGUF:F16"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        said = read_until(ours, "Download? [Y/n]")
        os.write(ours, b"y\n")
        said += read_until(ours, "serves it.")
    assert process.returncode == 0
    assert "Here it would run with batch" in said
    assert "MiB" in said.partition("Download? [Y/n]")[2]
    assert "Traceback" not in said


def okno_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("OKNO_")}


def read_until(terminal: int, wanted: str) -> str:
    """What comes until `wanted` does, or the end."""
    data = b""
    while wanted not in data.decode(errors="replace"):
        try:
            data += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    return data.decode(errors="replace")


def test_pull_of_what_is_no_repository_says_how_they_are_written(hub, capsys):
    assert run(["pull", "saiga"]) == 2
    assert "'saiga' is no repository. Give OWNER/REPO" in capsys.readouterr().err


def test_pull_of_a_gated_repository_asks_nothing(hub, capsys):
    hub.repos["owner/okno-GGUF"].is_gated = True
    assert run(["pull", "owner/okno-GGUF:F16", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "is gated: its publisher shows it after you accept the licence" in said
    assert "to download" not in said


def test_a_model_that_cannot_be_planned_is_said_and_downloaded(hub, capsys):
    assert run(["pull", "owner/saiga", "--yes"]) == 0
    captured = capsys.readouterr()
    assert "How it would run here cannot be said before it is here" in captured.err
    assert (Path(captured.out.strip()) / "tokenizer.json").is_file()


def test_chat_fetches_what_is_not_here_and_the_next_time_asks_nobody(hub):
    asked = ("chat", "--model", "owner/okno-GGUF:F16", "--ctx", "256", "-n", "8", "What is okno?")
    said = okno(*asked, OKNO_MODELS_DIR=os.environ["OKNO_MODELS_DIR"])
    assert said.returncode == 0, said.stderr
    assert "8.5 MiB to download" in said.stderr
    assert said.stdout.startswith("okno is")
    hub.asked.clear()
    again = okno(*asked, HF_HUB_OFFLINE="1", OKNO_MODELS_DIR=os.environ["OKNO_MODELS_DIR"])
    assert again.stdout == said.stdout
    assert hub.asked == []


def test_tokens_says_what_it_downloads(hub, capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("What is okno?")
    assert run(["tokens", str(text), "--model", "owner/okno-GGUF:F16"]) == 0
    assert "8.5 MiB to download" in capsys.readouterr().err


def test_serve_downloads_nothing_that_would_not_run(hub, capsys, monkeypatch):
    monkeypatch.setattr(
        offer_module, "offer_of", lambda *_: offer_module.Offer(("Too big.",), False)
    )
    assert run(["serve", "--model", "owner/okno-GGUF:F16"]) == 1
    said = capsys.readouterr().err
    assert "Too big. Nothing was downloaded; `okno pull owner/okno-GGUF`" in said
    assert hub.fetched() == set()


def test_serve_says_why_a_repository_cannot_be_had(hub, capsys):
    assert run(["serve", "--model", "owner/none"]) == 1
    assert "There is no repository owner/none" in capsys.readouterr().err
    assert run(["serve", "--model", "owner/okno-GGUF"]) == 1
    assert "has 2 models, so say which: okno.F16.gguf (8 MiB)" in capsys.readouterr().err


def test_rm_removes_a_file_of_the_hub_and_its_content(hub, capsys):
    for quant in ("F16", "Q4_0"):
        assert run(["pull", f"owner/okno-GGUF:{quant}", "--yes"]) == 0
    assert run(["rm", "okno.F16", "--yes"]) == 0
    assert "Removed okno.F16: a file in the hub's cache, 8.5 MiB." in capsys.readouterr().err
    assert set(listed(capsys)) == {"demo", "okno.Q4_0"}
    assert sum(path.stat().st_size for path in hub_cache().rglob("blobs/*")) == len(Q4)


def test_rm_removes_a_whole_repository_with_what_was_begun(hub, capsys):
    for quant in ("F16", "Q4_0"):
        assert run(["pull", f"owner/okno-GGUF:{quant}", "--yes"]) == 0
    folder = hub_cache() / "models--owner--okno-GGUF"
    (folder / "blobs" / "0.okno.incomplete").write_bytes(b"begun")
    assert run(["rm", "owner/okno-GGUF", "--yes"]) == 0
    assert not folder.exists()
    assert set(listed(capsys)) == {"demo"}


def test_models_tells_of_interrupted_downloads_and_rm_removes_them(hub, capsys):
    folder = hub_cache() / "models--owner--cut" / "blobs"
    folder.mkdir(parents=True)
    (folder / "0.okno.incomplete").write_bytes(bytes(3 << 20))
    assert run(["models"]) == 0
    assert "owner/cut: 3.0 MiB of an interrupted download" in capsys.readouterr().err
    assert run(["rm", "owner/cut", "--yes"]) == 0
    assert not folder.parent.exists()


def test_rm_removes_what_lies_in_the_models_folder_and_nothing_beside_it(hub, capsys, tmp_path):
    models = tmp_path / "models"
    for name in ("a/one-00001-of-00002.gguf", "a/one-00002-of-00002.gguf", "b/two.gguf"):
        (models / name).parent.mkdir(exist_ok=True)
        (models / name).write_bytes(b"GGUF")
    saiga = models / "owner" / "Saiga"
    (saiga / "mine").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "mine/notes.txt"):
        (saiga / name).write_bytes(b"{}")
    assert run(["rm", "one", "--yes"]) == 0
    assert not (models / "a").exists()
    assert run(["rm", "owner/Saiga", "--yes"]) == 0
    assert [path.name for path in saiga.rglob("*")] == ["mine", "notes.txt"]
    assert (models / "b/two.gguf").exists()


def test_rm_removes_what_okno_made(hub, capsys):
    converted_folder().mkdir(parents=True)
    (converted_folder() / "saiga-Q8_0.gguf").write_bytes(b"GGUF")
    assert listed(capsys)["saiga-Q8_0"]["place"] == "converted"
    assert run(["rm", "saiga-Q8_0", "--yes"]) == 0
    assert not list(converted_folder().glob("*.gguf"))


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ("demo", 2, "The demo model ships with okno and stays"),
        ("two-lon", 1, "Nothing here is called 'two-lon', in full. Did you mean two-long?"),
        ("../two-long", 1, "Nothing here is called"),
        ("/etc/passwd", 1, "Nothing here is called"),
        ("same", 1, "'same' is 2 things, so say which. in the models folder: `okno rm "),
        ("two-long", 2, "Without a terminal nothing is removed unless --yes is given"),
    ],
)
def test_rm_refuses_what_it_may_not_or_is_not_sure_of(asked, code, said, hub, capsys, tmp_path):
    converted_folder().mkdir(parents=True)
    for path in (tmp_path / "models/two-long.gguf", tmp_path / "models/same.gguf",
                 converted_folder() / "same.gguf"):  # fmt: skip
        path.write_bytes(b"GGUF")
    assert run(["rm", asked]) == code
    assert said in capsys.readouterr().err
    assert (tmp_path / "models/two-long.gguf").exists()


def test_rm_leaves_what_is_being_served(hub, capsys, monkeypatch):
    assert run(["pull", "owner/okno-GGUF:F16", "--yes"]) == 0
    served = Served(OKNO, "serve", "--port", "0", "--alias", "okno.F16", OKNO_ENGINE="scripted")
    try:
        monkeypatch.setenv("OKNO_PORT", served.url.rpartition(":")[2])
        for asked in ("okno.F16", "owner/okno-GGUF"):
            assert run(["rm", asked, "--yes"]) == 2
            assert f"okno.F16 is being served at {served.url}" in capsys.readouterr().err
    finally:
        served.stop(signal.SIGTERM)
    assert run(["rm", "okno.F16", "--yes"]) == 0


def test_rm_tells_of_files_made_of_what_it_removed(hub, capsys, tmp_path):
    small_checkpoint(tmp_path / "models" / "owner" / "saiga")
    assert run(["convert", "owner/saiga"]) == 0
    made = Path(capsys.readouterr().out.strip())
    assert run(["rm", "owner/saiga", "--yes"]) == 0
    assert f"{made.stem}, made of it, stays: " in capsys.readouterr().err


def test_rm_asks_a_person_and_no_means_no(hub, capsys, monkeypatch, tmp_path):
    path = tmp_path / "models/two.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr("sys.stdin", Terminal(iter(["n\n"])))
    assert run(["rm", "two"]) == 1
    assert path.exists()
