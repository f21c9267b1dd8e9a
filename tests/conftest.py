from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from okno.bench.quantise import FileType
from okno.bench.shapes import PRESETS, write_gguf

MakeModel = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _signals_count() -> None:
    """Also where the tests were started by nohup or behind a script's `&`, which let every process
    they start ignore hang-ups and interrupts."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test, and no process that a test starts, reads this user's own settings or what okno
    learnt for them, or adds to it."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """make_model("tiny", "Q4_0"): a GGUF of that shape, made once per session."""
    folder = tmp_path_factory.mktemp("shapes")

    def make(shape: str, file_type: FileType = "F32") -> Path:
        path = folder / f"{shape}-{file_type}.gguf"
        if not path.exists():
            write_gguf(PRESETS[shape], path, file_type)
        return path

    return make
