"""A server of one's own: `okno serve --private` as a child that cannot outlive its parent.

The child reports on stdout, one JSON object a line (`Report`), and stops when its stdin closes,
which the operating system does even for a parent that is killed.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Self

import msgspec

from okno.core.errors import EngineFailed, ErrorInfo, OknoError, from_info
from okno.core.python import import_path, module_command

STOP_TIMEOUT_S = 10.0
TAIL_BYTES = 2000
NOT_INHERITED = ("OKNO_HOST", "OKNO_PORT", "OKNO_LISTEN", "OKNO_ALIAS", "OKNO_DRAIN_TIMEOUT")


class Report(msgspec.Struct, omit_defaults=True):
    """One line of the child: progress (0..1) while loading, then `url`, or an error."""

    progress: float | None = None
    url: str | None = None
    note: str | None = None
    error: ErrorInfo | None = None


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Report).decode


class PrivateServer:
    """Starts the child; a context manager that stops it."""

    def __init__(self, flags: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        self.api_key = secrets.token_urlsafe(24)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        kept = {k: v for k, v in environment.items() if k not in NOT_INHERITED}
        self._process = subprocess.Popen(
            command(flags),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**kept, "OKNO_API_KEY": self.api_key, "PYTHONPATH": import_path()},
            start_new_session=True,  # Ctrl-C here stops an answer, not the server
        )

    def wait_ready(self, on_progress: Callable[[float], None], say: Callable[[str], None]) -> str:
        """The URL, once the model is loaded. Raises the child's error, or EngineFailed when it
        died without one."""
        for line in _pipe(self._process.stdout):
            report = decode(line)
            if report.error is not None:
                raise from_info(report.error)
            if report.progress is not None:
                on_progress(report.progress)
            if report.note is not None:
                say(report.note)
            if report.url is not None:
                return report.url
        raise self._died()

    def _died(self) -> OknoError:
        code = self._process.wait()
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - TAIL_BYTES))
        tail = self._log.read().decode("utf-8", "replace").strip()
        return EngineFailed(f"The server ended with code {code} before it was ready.\n{tail}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()
        self._log.close()


def command(flags: Sequence[str]) -> list[str]:
    """The child's command line."""
    fixed = ["--private", "--host", "127.0.0.1", "--port", "0", "--drain-timeout", "0"]
    return module_command("okno.cli.main", "serve", *fixed, *flags)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # Popen was told PIPE
    return stream
