"""okno as a newcomer meets it: real processes, real sockets, the model that ships."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.cli.support import OKNO, ROOT, SERVER_PY, clean_environment, okno
from tests.convert.small import small_checkpoint

STATS = re.compile(
    r"\d+ tokens? · [\d.]+ tokens/s · first token [\d.]+ s · window \d+/512 tokens \(\d+%\)"
)


def test_one_question_one_answer_the_same_every_time():
    command = ["chat", "--model", "demo", "--ctx", "512", "--max-tokens", "24", "hello"]
    result = okno(*command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert STATS.search(result.stderr)
    assert okno(*command).stdout == result.stdout


def test_stdin_is_a_question_too():
    command = [*OKNO, "chat", "--ctx", "512", "-"]
    result = subprocess.run(
        command, input="say piped\n", capture_output=True, text=True, cwd=ROOT, check=True,
        env=clean_environment(OKNO_ENGINE="scripted"),
    )  # fmt: skip
    assert result.stdout == "piped\n"
    empty = okno("chat", "-", OKNO_ENGINE="scripted")
    assert empty.returncode == 2
    assert "stdin is empty" in empty.stderr


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_question_is_refused_like_an_empty_stdin(prompt):
    result = okno("chat", prompt, OKNO_ENGINE="scripted")
    assert (result.returncode, result.stdout) == (2, "")
    assert "There is no question: PROMPT is empty." in result.stderr


def test_text_that_is_no_utf8_is_refused_in_one_line():
    for command, stdin in (
        ([b"\xff"], b""),
        ([b"-"], b"\xff\xfe"),
        ([b"--system", b"\xff", b"x"], b""),
    ):
        result = subprocess.run(
            [*OKNO, "chat", *command], input=stdin, capture_output=True, cwd=ROOT, check=False,
            env=clean_environment(),
        )  # fmt: skip
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
        assert b"is not valid UTF-8" in result.stderr


def test_a_terminal_without_the_letters_gets_question_marks():
    result = subprocess.run(
        [*OKNO, "chat", "say привет"], capture_output=True, cwd=ROOT, check=False,
        env=clean_environment(OKNO_ENGINE="scripted", PYTHONIOENCODING="latin-1"),
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, b"??????\n")


def test_a_question_larger_than_the_window_is_refused_with_both_numbers():
    result = okno("chat", "--ctx", "64", "x" * 200, OKNO_ENGINE="scripted")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "the window 64." in result.stderr
    assert "a larger --ctx helps" in result.stderr
    assert re.search(r"\b2\d\d\b", result.stderr)


class Served:
    """A server started from the command line; read its line, ask it, end it."""

    def __init__(self, program: list[str], *args: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*program, *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env=clean_environment(**environment),
        )  # fmt: skip
        self.line = self.process.stdout.readline()
        self.line += self.process.stdout.readline() + self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", self.line)
        self.url = found.group() if found else ""

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """The exit code and all of stderr."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate()
        return self.process.returncode, stderr


def test_the_users_own_command_line_serves():
    served = Served(
        SERVER_PY, "--model", "demo", "--batch_size", "1", "--ctx", "512", "--load-in-8bit",
        "--port", "0",
    )  # fmt: skip
    assert "okno is ready: http://127.0.0.1:" in served.line
    assert "demo" in served.line
    assert "batch 1 × ctx 512 (KV pool 512 tokens" in served.line
    assert "memory " in served.line
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    reply = httpx.post(
        f"{served.url}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
        timeout=60,
    )
    assert reply.json()["choices"][0]["message"]["content"]
    code, stderr = served.stop(signal.SIGTERM)
    assert code == 0
    assert "--load-in-8bit: demo.gguf (F16) is served as Q8_0, made once and kept: " in stderr


def test_the_users_own_command_line_serves_a_folder_of_weights(tmp_path):
    """Row 1 of the user's table: `python server.py --model Saiga-13B-GPTQ ... --load-in-8bit`."""
    small_checkpoint(tmp_path / "models" / "IlyaGusev_Saiga-tiny")
    served = Served(
        SERVER_PY, "--model", "Saiga-tiny", "--batch_size", "1", "--ctx", "128", "--load-in-8bit",
        "--port", "0", OKNO_MODELS_DIR=str(tmp_path / "models"), OKNO_DATA_DIR=str(tmp_path),
    )  # fmt: skip
    assert "IlyaGusev_Saiga-tiny" in served.line
    asked = {"prompt": "Привет", "max_tokens": 4, "ignore_eos": True}
    reply = httpx.post(f"{served.url}/v1/completions", json=asked, timeout=60)
    assert reply.json()["usage"]["completion_tokens"] == 4
    code, stderr = served.stop(signal.SIGTERM)
    assert code == 0
    assert "IlyaGusev_Saiga-tiny was converted, once; the result is kept: " in stderr
    assert "Generation settings that come with the model: temperature 0.25" in stderr


def test_ctrl_c_ends_a_server_in_order():
    served = Served(OKNO, "serve", "--port", "0", OKNO_ENGINE="scripted")
    code, stderr = served.stop(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in stderr


def test_chat_finds_a_running_server_by_its_url():
    served = Served(OKNO, "serve", "--port", "0", "--ctx", "512", OKNO_ENGINE="scripted")
    result = okno("chat", "--url", served.url, "say over there")
    assert result.stdout == "over there\n"
    wrong = okno("chat", "--url", served.url, "--model", "demo", "hello")
    assert wrong.returncode == 1
    assert "No model `demo` is served here" in wrong.stderr
    both = okno("chat", "--url", served.url, "--ctx", "64", "hello")
    assert both.returncode == 2
    served.stop(signal.SIGTERM)


def test_a_url_with_tls_for_a_server_without_is_told_apart_from_no_server():
    served = Served(OKNO, "serve", "--port", "0", OKNO_ENGINE="scripted")
    secure = served.url.replace("http:", "https:")
    result = okno("chat", "--url", secure, "hello")
    assert result.returncode == 1
    assert f"The TLS connection to {secure} failed: " in result.stderr
    assert served.url in result.stderr
    served.stop(signal.SIGTERM)
    gone = okno("chat", "--url", served.url, "hello")
    assert f"No server answers at {served.url}. Start one with `okno serve`" in gone.stderr


def test_a_stop_with_running_answers_says_what_it_waits_for():
    served = Served(
        OKNO, "serve", "--port", "0", "--drain-timeout", "600", OKNO_ENGINE="scripted",
        OKNO_SCRIPT='{"step_ms": 1000}',
    )  # fmt: skip
    question = {"messages": [{"role": "user", "content": "long 4000"}], "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=question) as response:
        lines = response.iter_lines()  # kept: a forgotten iterator closes the stream
        next(lines)
        served.process.send_signal(signal.SIGINT)
        told = served.process.stderr.readline()
        while "Stopping" not in told:
            assert told, "it ended without a word"
            told = served.process.stderr.readline()
        assert told.startswith("Stopping: 1 answer still running, up to 600 s. Ctrl-C again")
        code, _ = served.stop(signal.SIGINT)
    assert code == 130


def test_a_dead_worker_is_one_line_that_says_what_happens_next():
    served = Served(OKNO, "serve", "--port", "0", OKNO_ENGINE="scripted")
    (worker,) = psutil.Process(served.process.pid).children()
    worker.kill()
    told = ""
    while " WARNING " not in told:
        told = served.process.stderr.readline()
        assert told, "it ended without a word"
    assert "the worker ended: killed by SIGKILL" in told
    assert told.endswith("; restarting, streams go on\n")
    assert okno("chat", "--url", served.url, "say again").stdout == "again\n"
    code, rest = served.stop(signal.SIGTERM)
    assert (code, rest) == (0, "")


def test_a_busy_port_is_said_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = okno("serve", "--port", port, OKNO_ENGINE="scripted")
    assert result.returncode == 2
    assert f"Port {port} on 127.0.0.1 is in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_model_is_one_clear_error(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 400)
    result = okno("serve", "--model", str(tmp_path / "broken.gguf"), "--port", "0")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


class Terminal:
    """`okno chat` on a terminal of its own."""

    def __init__(self, *args: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*OKNO, "chat", *args],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
            env=clean_environment(TERM="dumb", **environment),
            preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, text: str) -> str:
        """What is printed up to and including `text`; fails when the program ends first."""
        while text not in self.seen:
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # Linux: the other side is closed
                piece = b""
            assert piece, f"ended before {text!r}:\n{self.seen}"
            self.seen += piece.decode("utf-8", "replace")
        before, self.seen = self.seen.split(text, 1)
        return before + text

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


def _own_terminal() -> None:
    """Make the pty the controlling terminal, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal("--ctx", "512", OKNO_ENGINE="scripted")
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.master)


def test_a_conversation_in_a_terminal(terminal):
    terminal.until("> ")
    terminal.type("say first\n")
    assert "first" in terminal.until("window ")
    terminal.until("> ")
    terminal.type("/stats\n")
    assert "512 tokens for prompt and answer" in terminal.until("> ")
    terminal.type("/reset\n")
    terminal.until("The window is empty again.")
    terminal.until("> ")
    terminal.type("/quit\n")
    assert terminal.process.wait() == 0


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves():
    script = '{"step_ms": 20}'
    terminal = Terminal("--ctx", "4096", OKNO_ENGINE="scripted", OKNO_SCRIPT=script)
    terminal.until("> ")
    terminal.type("long 4000\n")
    terminal.until("long 4000")
    terminal.until("abcd")
    terminal.type("\x03")
    terminal.until("(stopped)")
    terminal.until("> ")
    terminal.type("say still here\n")
    terminal.until("tokens/s")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait() == 0
    os.close(terminal.master)


def test_a_conversation_that_outgrows_the_window_is_told_with_numbers(terminal):
    terminal.until("> ")
    terminal.type("say " + "x" * 300 + "\n")
    terminal.until("> ")
    terminal.type("say " + "y" * 300 + "\n")
    message = terminal.until("/reset")
    assert "does not fit into the window" in message or "window is full" in message
    terminal.until("> ")
    terminal.type("/reset\n")
    terminal.until("> ")
    terminal.type("say again\n")
    assert "again" in terminal.until("window ")
