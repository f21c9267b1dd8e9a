"""A checkpoint becomes engine-ready once: what is kept, what is made anew, what is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from filelock import FileLock

from okno.bench.raw import RawOptions, open_raw
from okno.convert import provenance
from okno.convert.cache import (
    LOCKS,
    WAITING,
    cached_path,
    converted_folder,
    lock_of,
    locked,
    part_of,
)
from okno.convert.progress import silent
from okno.convert.provenance import provenance_in
from okno.convert.ready import convert, engine_ready
from okno.convert.wants import Wants
from okno.core.errors import DiskFull, ModelUnusable
from okno.inspect.header import read_header
from tests.convert.checkpoint_files import LLAMA, llama_weights, write_checkpoint


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "converted"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "Saiga")


def models_in(folder: Path) -> list[str]:
    """Everything but locks and notes."""
    if not folder.exists():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".json")


class Watching:
    """A Progress that remembers, and may stop the work."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.told: list[tuple[str, int, int, float | None]] = []
        self.stop_after = stop_after

    def __call__(self, stage: str, done: int, total: int, left_s: float | None) -> None:
        self.told.append((stage, done, total, left_s))
        if self.stop_after is not None and len(self.told) > self.stop_after:
            raise KeyboardInterrupt


def test_the_engine_loads_what_is_made_and_answers(checkpoint: Path, kept: Path) -> None:
    made = engine_ready(checkpoint, Wants(), silent)
    assert (made.name, made.path.parent, made.size_bytes) == (
        "Saiga", kept, made.path.stat().st_size,
    )  # fmt: skip
    with open_raw(made.path, RawOptions(ctx=64, threads=1)) as engine:
        tokens = engine.tokenize("окно window", special=False)
        assert b"".join(engine.piece(token) for token in tokens).decode() == "окно window"
        engine.prefill(tokens)
        assert np.isfinite(engine.logits()).all()


def test_it_is_made_once(checkpoint: Path) -> None:
    first = engine_ready(checkpoint, Wants(), silent)
    written = first.path.stat()
    watching = Watching()
    again = engine_ready(checkpoint, Wants(), watching)
    assert again == first
    assert again.path.stat().st_ino == written.st_ino
    assert watching.told == []


def test_a_start_reads_no_weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as sizes, times and places of the sources are what they were."""
    first = engine_ready(checkpoint, Wants(), silent)

    def read(path: Path, stopped: object) -> str:
        raise AssertionError(f"{path} is hashed")

    monkeypatch.setattr(provenance, "sha256_of", read)
    assert engine_ready(checkpoint, Wants(), silent) == first


def test_what_differs_from_the_original_is_said_at_every_start(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "mistral", "sliding_window": 64}
    folder = write_checkpoint(tmp_path / "Mistral", config=config)
    told: list[list[str]] = [[], []]
    for said in told:
        engine_ready(folder, Wants(), silent, said.append)
    assert "was converted, once" in told[0][0]
    assert told[0][1:] == told[1]
    assert "the last 64 tokens" in told[1][0]


def test_progress_ends_at_all_bytes(checkpoint: Path) -> None:
    watching = Watching()
    engine_ready(checkpoint, Wants(), watching)
    done = [entry[1] for entry in watching.told]
    total = watching.told[0][2]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == total == sum(w.nbytes for w in llama_weights().values())


def test_it_carries_where_it_comes_from(checkpoint: Path) -> None:
    made = provenance_in(engine_ready(checkpoint, Wants(), silent).path)
    assert made is not None
    assert made.source == "Saiga"
    assert set(made.files) == {
        "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    from hashlib import sha256

    for name, digest in made.files.items():
        assert digest == sha256((checkpoint / name).read_bytes()).hexdigest()


def test_a_snapshot_of_the_hub_is_named_after_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--IlyaGusev--saiga" / "snapshots" / "abc123"
    write_checkpoint(folder)
    found = engine_ready(folder, Wants(), silent)
    made = provenance_in(found.path)
    assert found.name == "saiga"
    assert made is not None
    assert (made.source, made.revision) == ("IlyaGusev/saiga", "abc123")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_a_changed_source_is_converted_anew(checkpoint: Path, file: str) -> None:
    first = engine_ready(checkpoint, Wants(), silent)
    inode = first.path.stat().st_ino
    data = bytearray((checkpoint / file).read_bytes())
    if file == "model.safetensors":
        data[-1] ^= 1  # same size, and the time is put back
        times = (checkpoint / file).stat()
        (checkpoint / file).write_bytes(data)
        os.utime(checkpoint / file, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        (checkpoint / file).write_bytes(data + b"\n")
    with first.path.open("rb"):  # so that its inode is not given to another file
        assert engine_ready(checkpoint, Wants(), silent).path.stat().st_ino != inode


def test_a_source_that_was_only_touched_is_not(checkpoint: Path) -> None:
    first = engine_ready(checkpoint, Wants(), silent).path.stat().st_ino
    os.utime(checkpoint / "model.safetensors")
    watching = Watching()
    assert engine_ready(checkpoint, Wants(), watching).path.stat().st_ino == first
    assert watching.told == []


def test_another_version_of_the_converter_converts_anew(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_ready(checkpoint, Wants(), silent)
    monkeypatch.setattr(provenance, "CONVERTER", provenance.CONVERTER + 1)
    watching = Watching()
    engine_ready(checkpoint, Wants(), watching)
    assert watching.told != []


def test_a_damaged_result_is_made_anew(checkpoint: Path) -> None:
    path = engine_ready(checkpoint, Wants(), silent).path
    os.truncate(path, path.stat().st_size - 1000)
    watching = Watching()
    assert engine_ready(checkpoint, Wants(), watching).path == path
    assert watching.told != []
    assert read_header(path).n_layer == 2


def test_each_width_is_kept_beside_the_others(checkpoint: Path, kept: Path) -> None:
    stored = engine_ready(checkpoint, Wants(), silent).path
    eight = engine_ready(checkpoint, Wants(bits=8), silent).path
    assert models_in(kept) == sorted([stored.name, eight.name])
    assert read_header(eight).file_type == "Q8_0"
    assert read_header(stored).file_type == "F32"


def test_models_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "a" / "Saiga")
    other = write_checkpoint(tmp_path / "b" / "Saiga")
    assert engine_ready(one, Wants(), silent).path != engine_ready(other, Wants(), silent).path


def test_a_conversion_that_is_interrupted_leaves_nothing(checkpoint: Path, kept: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        engine_ready(checkpoint, Wants(), Watching(stop_after=0))
    assert models_in(kept) == []


STOPPING = """
import os, signal, sys
from pathlib import Path
from okno.convert.ready import engine_ready
from okno.convert.wants import Wants
def progress(stage, done, total, left_s):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
engine_ready(Path(sys.argv[1]), Wants(), progress)
"""


def test_a_conversion_that_is_killed_is_never_taken_for_a_model(tmp_path: Path, kept: Path) -> None:
    """Its part is removed at the next start, of whichever model."""
    wide = LLAMA | {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 3}
    killed = write_checkpoint(tmp_path / "Killed", config=wide, tensors=llama_weights(wide))
    child = subprocess.run([sys.executable, "-c", STOPPING, str(killed)], check=False)
    assert child.returncode == -signal.SIGKILL
    (part,) = models_in(kept)
    assert part.endswith(".gguf.okno.part")
    other = engine_ready(write_checkpoint(tmp_path / "Other"), Wants(), silent)
    assert models_in(kept) == [other.path.name]
    assert engine_ready(killed, Wants(), silent).path.exists()


def test_a_part_that_is_being_made_is_left_alone(tmp_path: Path, kept: Path) -> None:
    busy = kept / "Busy-12345678.gguf"
    with locked(busy):
        part = part_of(busy)
        part.write_bytes(b"half")
        made = engine_ready(write_checkpoint(tmp_path / "Other"), Wants(), silent)
        assert part.exists()
    assert made.path.exists()


def test_who_waits_for_another_is_told_so(checkpoint: Path) -> None:
    path = cached_path(converted_folder(), checkpoint, "Saiga", Wants())
    told = []

    def progress(stage: str, done: int, total: int, left_s: float | None) -> None:
        told.append(stage)
        if stage.startswith("Waiting"):
            other.release()

    path.parent.mkdir(parents=True)
    other = FileLock(lock_of(path))
    with other:
        engine_ready(checkpoint, Wants(), progress)
    assert list(dict.fromkeys(told)) == [WAITING, "Converting"]


def test_what_is_kept_on_a_disk_that_is_only_read_is_served(checkpoint: Path, kept: Path) -> None:
    """As in a container whose models are made beforehand: nothing need be locked."""
    made = engine_ready(checkpoint, Wants(), silent)
    shutil.rmtree(kept / LOCKS)
    (kept / LOCKS).write_text("in the way")  # root may write everywhere
    assert engine_ready(checkpoint, Wants(), silent) == made


def test_a_file_that_only_looks_like_a_part_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "made.gguf.part").write_text("of a browser")
    convert(checkpoint, tmp_path / "made.gguf", Wants(), silent)
    assert (tmp_path / "made.gguf.part").read_text() == "of a browser"


ASKING = """
import sys
from pathlib import Path
from okno.convert.ready import engine_ready
from okno.convert.wants import Wants
told = []
print(engine_ready(Path(sys.argv[1]), Wants(), lambda stage, *_: told.append(stage)).path)
print("Converting" in told)
"""


def test_a_source_that_changes_meanwhile_is_said_and_nothing_is_kept(
    checkpoint: Path, kept: Path
) -> None:
    """Else the file would be of the old weights, and its hashes of the new ones."""
    weights = checkpoint / "model.safetensors"
    newer = bytearray(weights.read_bytes())
    newer[-1] ^= 1

    def replacing(stage: str, done: int, total: int, left_s: float | None) -> None:
        if done == total:
            weights.write_bytes(newer)

    with pytest.raises(ModelUnusable, match="was changed while it was read, so nothing was kept"):
        engine_ready(checkpoint, Wants(), replacing)
    assert models_in(kept) == []


def test_two_that_ask_at_once_convert_once(checkpoint: Path) -> None:
    command = [sys.executable, "-c", ASKING, str(checkpoint)]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [child.communicate()[0].split() for child in asking]
    assert len({path for path, _ in answers}) == 1
    assert sorted(did for _, did in answers) == ["False", "False", "True"]


def test_without_room_nothing_is_written(
    checkpoint: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(checkpoint)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(DiskFull, match=r"Converting Saiga needs .* MiB .*free there.*Make room"):
        engine_ready(checkpoint, Wants(), silent)
    assert models_in(kept) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
from okno.convert.ready import engine_ready
from okno.convert.wants import Wants
from okno.core.errors import OknoError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    engine_ready(Path(sys.argv[1]), Wants(), lambda *said: None)
except OknoError as error:
    print(type(error).__name__, error.message)
"""


def test_a_disk_that_refuses_midway_is_said_and_nothing_is_left(
    checkpoint: Path, kept: Path
) -> None:
    command = [sys.executable, "-c", LIMITED, str(checkpoint)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    assert child.stdout.startswith("ModelUnusable")
    assert "cannot be written: File too large" in child.stdout
    assert models_in(kept) == []


def test_a_file_of_ones_own_is_written_where_one_says(checkpoint: Path, tmp_path: Path) -> None:
    made = convert(checkpoint, tmp_path / "out" / "mine.gguf", Wants(), silent)
    assert made.path.exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.gguf"]
    with pytest.raises(ModelUnusable, match="exists already"):
        convert(checkpoint, made.path, Wants(), silent)


@pytest.mark.parametrize(("bits", "worst"), [(8, 0.01), (4, 0.12)])
def test_fewer_bits_keep_the_values_nearly(tmp_path: Path, bits: int, worst: float) -> None:
    wide = LLAMA | {"hidden_size": 256, "intermediate_size": 512}
    folder = write_checkpoint(tmp_path / "Wide", llama_weights(wide), wide)
    exact = values_in(engine_ready(folder, Wants(), silent).path)
    rough = values_in(engine_ready(folder, Wants(bits=bits), silent).path)
    assert exact.keys() == rough.keys()
    errors = {
        name: float(np.linalg.norm(rough[name] - exact[name]) / np.linalg.norm(exact[name]))
        for name in exact
    }
    assert max(errors.values()) <= worst
    assert errors["blk.0.ffn_up.weight"] > 0
    assert errors["blk.0.attn_norm.weight"] == 0


def values_in(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in gguf.GGUFReader(path).tensors
    }


def test_the_memory_of_a_conversion_is_far_below_the_model(tmp_path: Path) -> None:
    """64 MiB of weights, a limit of its own on what the process may have beside its libraries."""
    wide = LLAMA | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3}
    folder = write_checkpoint(tmp_path / "Wide", llama_weights(wide), wide)
    source = (folder / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", GROWING, str(folder), str(tmp_path / "out.gguf")]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(child.stdout) < source


GROWING = """
import resource, sys
from pathlib import Path
import gguf
from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.wants import Wants
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(sys.argv[1]), Path(sys.argv[2]), Wants(), silent)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_kept_files_lie_in_the_data_folder_that_is_named(kept: Path, checkpoint: Path) -> None:
    assert converted_folder() == kept
    assert cached_path(kept, checkpoint, "a/b c", Wants(bits=4)).name.startswith("a_b_c-Q4_K_M-")
    assert converted_folder({}).name == "converted"
