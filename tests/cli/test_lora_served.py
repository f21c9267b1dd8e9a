"""`--lora` as people give it: a real server, an adapter as PEFT saved it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from okno.inspect.models import demo_model
from tests.cli.support import OKNO, okno
from tests.cli.test_end_to_end import Served
from tests.lora import peft_tensors, random_factors, write_peft

DEMO = demo_model().path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    factors = random_factors(DEMO, size=1.0)
    return write_peft(tmp_path_factory.mktemp("lora") / "poet", peft_tensors(DEMO, factors))


@contextmanager
def served(folder: Path, *lora: str) -> Iterator[Served]:
    flags = [word for one in lora for word in ("--lora", one)]
    found = Served(
        [*OKNO, "serve"], "--model", "demo", "--batch-size", "2", "--ctx", "256", "--port", "0",
        *flags, OKNO_DATA_DIR=str(folder),
    )  # fmt: skip
    try:
        assert found.url, found.line
        yield found
    finally:
        found.stop(signal.SIGTERM)


def answer(url: str) -> str:
    body = {"prompt": "The window", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    return str(httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]["text"])


def test_the_adapter_answers_also_in_another_window(adapter: Path, tmp_path: Path) -> None:
    with served(tmp_path) as plain:
        without = answer(plain.url)
    with served(tmp_path, f"{adapter}:0") as off:
        assert answer(off.url) == without
    with served(tmp_path, f"muse={adapter}:0.5", f"off={adapter}:0") as both:
        found = answer(both.url)
        assert found != without
        [model] = httpx.get(f"{both.url}/v1/models").json()["data"]
        assert model["adapters"] == [{"name": "muse", "scale": 0.5}, {"name": "off", "scale": 0}]
        resized = httpx.patch(f"{both.url}/okno/v1/window", json={"ctx": 512})
        assert resized.status_code == 200, resized.text
        assert answer(both.url) == found
        notes = httpx.get(f"{both.url}/props").json()["notes"]
        assert "adapter muse: scale 0.5" in notes


def test_a_request_cannot_choose_adapters(adapter: Path, tmp_path: Path) -> None:
    with served(tmp_path, str(adapter)) as server:
        body = {"prompt": "x", "max_tokens": 1, "lora": [{"id": 0, "scale": 1}]}
        refused = httpx.post(f"{server.url}/v1/completions", json=body)
        assert refused.status_code == 400
        assert "--lora" in refused.json()["error"]["message"]


def test_chat_takes_adapters_for_a_server_of_its_own(adapter: Path, tmp_path: Path) -> None:
    command = ["chat", "--ctx", "256", "--max-tokens", "12", "hello"]
    plain = okno(*command, OKNO_DATA_DIR=str(tmp_path))
    found = okno(*command, "--lora", str(adapter), OKNO_DATA_DIR=str(tmp_path))
    assert (plain.returncode, found.returncode) == (0, 0), found.stderr
    assert "adapter poet: scale 1" in found.stderr
    assert found.stdout != plain.stdout


@pytest.mark.parametrize(
    ("lora", "why"),
    [
        ("nowhere.gguf", "There is no adapter 'nowhere.gguf'"),
        (f"{DEMO}", "is no adapter"),
        ("x.gguf:much", "give a number, as in x.gguf:0.5"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_said_in_one_line(lora: str, why: str) -> None:
    result = okno("serve", "--model", "demo", "--port", "0", "--lora", lora)
    assert result.returncode in (1, 2)
    assert why in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
