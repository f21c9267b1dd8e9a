"""The private server as a real process: it reports, it serves, and it never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import psutil
import pytest

from okno.cli.private_server import PrivateServer, Report, decode, encode
from okno.core.errors import BadSetting, EngineFailed, ErrorInfo, ModelNotFound
from tests.cli.support import ROOT, clean_environment

SCRIPTED = clean_environment(OKNO_ENGINE="scripted")


def nothing(_: object) -> None:
    """For progress and remarks nobody wants."""


def test_it_is_ready_answers_with_its_key_and_ends():
    progress: list[float] = []
    with PrivateServer(["--ctx", "512"], SCRIPTED) as server:
        url = server.wait_ready(progress.append, nothing)
        headers = {"Authorization": f"Bearer {server.api_key}"}
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/props").status_code == 401
        props = httpx.get(f"{url}/props", headers=headers).json()
        assert props["default_generation_settings"]["n_ctx"] == 512
    assert server._process.returncode == 0, "it ended by itself"
    assert progress[0] == 0.0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/props")


def test_its_error_is_raised_here_as_what_it_is(tmp_path):
    flags = ["--model", "nothing", "--models-dir", str(tmp_path)]
    with PrivateServer(flags, clean_environment()) as server, pytest.raises(ModelNotFound):
        server.wait_ready(nothing, nothing)
    with PrivateServer(["--ctx", "1"], SCRIPTED) as server, pytest.raises(BadSetting):
        server.wait_ready(nothing, nothing)


def test_a_death_without_a_word_is_told_with_the_last_words():
    with (
        PrivateServer(["--no-such-flag"], SCRIPTED) as server,
        pytest.raises(EngineFailed, match=r"ended with code 2(.|\n)*No such option"),
    ):
        server.wait_ready(nothing, nothing)


def test_the_parents_address_and_name_are_not_inherited():
    environment = {**SCRIPTED, "OKNO_PORT": "1", "OKNO_LISTEN": "1", "OKNO_HOST": "0.0.0.0"}
    with PrivateServer([], environment) as server:
        assert server.wait_ready(nothing, nothing).startswith("http://127.0.0.1:")


PARENT = """
import sys
from okno.cli.private_server import PrivateServer
with PrivateServer([]) as server:
    server.wait_ready(lambda _: None, lambda _: None)
    print(server._process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent_however_that_dies(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=SCRIPTED, cwd=ROOT,
    )  # fmt: skip
    server = psutil.Process(int(parent.stdout.readline()))
    family = [server, *server.children(recursive=True)]
    assert len(family) > 1, "the server has a worker"
    os.kill(parent.pid, number)
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def test_reports_survive_the_pipe():
    error = ErrorInfo("model_not_found", "no", None, {"n": 1})
    for report in (Report(progress=0.5), Report(url="u"), Report(note="n"), Report(error=error)):
        assert decode(encode(report)) == report
