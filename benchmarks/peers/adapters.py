"""The servers that are compared: is each here, how is it started, how is it seen to be ready."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from okno.bench import served
from okno.bench.report import versions
from okno.bench.served import ServerProgram

HERE = Path(__file__).parent
LOOKUP_TIMEOUT_S = 120
FIND_MODULES = (
    "import importlib.util, sys; "
    "print(' '.join(m for m in sys.argv[1:] if importlib.util.find_spec(m) is None))"
)
FIND_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class Work:
    """What a server is started for. ctx: tokens of one request; kv_pool: tokens of all together,
    None for batch_size x ctx; threads: None leaves it to each program."""

    model: Path
    batch_size: int
    ctx: int
    kv_pool: int | None = None
    threads: int | None = None

    @property
    def pool(self) -> int:
        return self.kv_pool or self.batch_size * self.ctx


class Peer(ABC):
    """One contestant. name: its column in the table; can_ignore_eos: it takes the request field
    that makes answers as long as asked."""

    name: str
    ready_path = "/health"
    path = "/v1/completions"
    can_ignore_eos = True

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot be started here; None when it can."""

    @abstractmethod
    def command(self, work: Work, port: int) -> list[str]:
        """Its command line."""

    @abstractmethod
    def version(self) -> str:
        """What is measured, for the page."""

    def environment(self) -> dict[str, str]:
        """As a user would start it."""
        return dict(os.environ)

    def model(self) -> str | None:
        """The name requests carry; None: the first one it lists."""
        return None

    def program(self, work: Work) -> ServerProgram:
        """For `okno.bench.served.started`."""
        return ServerProgram(
            self.name, lambda port: self.command(work, port), self.environment(), self.ready_path
        )


@dataclass(frozen=True)
class Okno(Peer):
    """`okno serve` of this checkout, with `options` besides the window."""

    name: str = "okno"
    options: tuple[str, ...] = ()

    def missing(self) -> str | None:
        return None

    def command(self, work: Work, port: int) -> list[str]:
        flags = [
            "--model", str(work.model), "--batch-size", str(work.batch_size),
            "--ctx", str(work.ctx), "--kv-pool", str(work.pool), "--log-level", "warning",
            *_threads("--threads", work), *self.options,
        ]  # fmt: skip
        return served.command(flags, port)

    def environment(self) -> dict[str, str]:
        return served.environment()

    def version(self) -> str:
        return " ".join((versions(), *self.options))


@dataclass(frozen=True)
class LlamaServer(Peer):
    """llama-server with the context of all slots together; `options` make it a variant."""

    binary: Path | None
    name: str = "llama-server"
    options: tuple[str, ...] = ()

    def missing(self) -> str | None:
        if self.binary is None:
            return "not installed: give --llama-server (build_llama_server.py makes it)"
        return None if self.binary.is_file() else f"not installed: {self.binary} is not there"

    def command(self, work: Work, port: int) -> list[str]:
        return [
            str(self.binary), "-m", str(work.model), "--host", "127.0.0.1", "--port", str(port),
            "-np", str(work.batch_size), "-c", str(work.pool), *_threads("-t", work),
            *self.options,
        ]  # fmt: skip

    def version(self) -> str:
        found = _output([str(self.binary), "--version"])
        line = next((line for line in found.splitlines() if "version" in line), found[:80])
        return " ".join((line.strip(), *self.options))


@dataclass(frozen=True)
class PythonPeer(Peer):
    """A server in a Python of its own. modules: what must be there; package: names the version."""

    python: Path = Path(sys.executable)
    modules: tuple[str, ...] = ()
    package: str = ""

    def missing(self) -> str | None:
        if not self.python.is_file():
            return f"not installed: {self.python} is not there"
        lacking = _output([str(self.python), "-I", "-c", FIND_MODULES, *self.modules]).split()
        return f"not installed: no {', '.join(lacking)} in {self.python}" if lacking else None

    def version(self) -> str:
        found = _output([str(self.python), "-I", "-c", FIND_VERSION, self.package])
        return f"{self.package} {found.strip()}"

    def run(self, *arguments: str) -> list[str]:
        """A command line of its Python, which does not import from the current folder."""
        return [str(self.python), "-I", *arguments]


@dataclass(frozen=True)
class LlamaCppPython(PythonPeer):
    """The server inside llama-cpp-python: one request at a time, and here each to its end (by
    default a new request ends the one before)."""

    name: str = "llama-cpp-python server"
    modules: tuple[str, ...] = (
        "llama_cpp", "uvicorn", "fastapi", "sse_starlette", "starlette_context",
        "pydantic_settings",
    )  # fmt: skip
    package: str = "llama-cpp-python"
    ready_path = "/v1/models"

    def command(self, work: Work, port: int) -> list[str]:
        return self.run(
            "-m", "llama_cpp.server", "--model", str(work.model), "--host", "127.0.0.1",
            "--port", str(port), "--n_ctx", str(work.ctx), "--interrupt_requests", "False",
            *_threads("--n_threads", work),
        )  # fmt: skip


@dataclass(frozen=True)
class Xllamacpp(PythonPeer):
    """llama.cpp's server inside a Python extension."""

    name: str = "xllamacpp"
    modules: tuple[str, ...] = ("xllamacpp",)
    package: str = "xllamacpp"

    def command(self, work: Work, port: int) -> list[str]:
        return self.run(
            str(HERE / "start_xllamacpp.py"), str(work.model), str(port), str(work.batch_size),
            str(work.pool), str(work.threads or 0),
        )  # fmt: skip


@dataclass(frozen=True)
class OpenVino(PythonPeer):
    """OpenVINO GenAI's continuous batching behind a thin HTTP loop of ours."""

    name: str = "OpenVINO GenAI"
    modules: tuple[str, ...] = ("openvino_genai",)
    package: str = "openvino-genai"

    def command(self, work: Work, port: int) -> list[str]:
        return self.run(
            str(HERE / "start_openvino.py"), str(work.model), str(port), str(work.batch_size),
            str(work.pool), str(work.threads or 0),
        )  # fmt: skip


@dataclass(frozen=True)
class FromSafetensors(PythonPeer):
    """A peer that needs the model as a folder of safetensors: the same weights, another file."""

    folder: Path | None = None

    def missing(self) -> str | None:
        if (lacking := super().missing()) is not None:
            return lacking
        if self.folder is None:
            return "not measured: it reads no GGUF here; give --safetensors FOLDER"
        return None


@dataclass(frozen=True)
class VllmCpu(FromSafetensors):
    """vLLM's own server on the CPU."""

    name: str = "vLLM CPU"
    modules: tuple[str, ...] = ("vllm",)
    package: str = "vllm"

    def command(self, work: Work, port: int) -> list[str]:
        return self.run(
            "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.folder),
            "--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(work.batch_size),
            "--max-model-len", str(work.ctx), "--dtype", "bfloat16",
        )  # fmt: skip


@dataclass(frozen=True)
class TransformersServe(FromSafetensors):
    """`transformers serve` with continuous batching. It refuses fields it does not know, so a model
    that ends its answers early makes less than the others here."""

    can_ignore_eos = False

    name: str = "transformers serve"
    modules: tuple[str, ...] = ("transformers", "torch", "fastapi", "uvicorn")
    package: str = "transformers"

    def command(self, work: Work, port: int) -> list[str]:
        return self.run(
            "-m", "transformers.cli.transformers", "serve", str(self.folder), "--host",
            "127.0.0.1", "--port", str(port), "--continuous-batching", "--device", "cpu",
        )  # fmt: skip

    def model(self) -> str | None:
        return str(self.folder)


def peers(
    llama_server: Path | None, pythons: Mapping[str, Path], safetensors: Path | None,
    okno_options: Sequence[str] = (),
) -> list[Peer]:  # fmt: skip
    """All contestants, okno first; pythons: by package name, this Python for the others."""

    def python(package: str) -> Path:
        return pythons.get(package, Path(sys.executable))

    return [
        Okno(options=tuple(okno_options)),
        LlamaServer(llama_server),
        LlamaServer(llama_server, "llama-server -kvu", ("-kvu",)),
        LlamaServer(llama_server, "llama-server -kvu -b 64", ("-kvu", "-b", "64", "-ub", "64")),
        LlamaCppPython(python=python("llama-cpp-python")),
        Xllamacpp(python=python("xllamacpp")),
        OpenVino(python=python("openvino-genai")),
        VllmCpu(python=python("vllm"), folder=safetensors),
        TransformersServe(python=python("transformers"), folder=safetensors),
    ]


def _threads(flag: str, work: Work) -> list[str]:
    return [flag, str(work.threads)] if work.threads else []


def _output(command: Sequence[str]) -> str:
    """What a look-up prints on either stream; its exit status does not matter."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LOOKUP_TIMEOUT_S, check=False
    )
    return done.stdout or done.stderr
