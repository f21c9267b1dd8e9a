"""What lies in a models folder: GGUF models, and checkpoints that are made engine-ready first.

Looks three folders deep (publisher/repository/file), never outside the folder: a link that leads
out is left out and remembered by name. Files whose names cannot be printed are left out.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

MAX_DEPTH = 3
MAX_ENTRIES = 20_000
WEIGHTS = (".safetensors", ".bin", ".pt")
PART = re.compile(r"-(\d{5})-of-(\d{5})\.(gguf|safetensors)$")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A GGUF model on this machine. path: the file, or the first file of a split model; size:
    of all its files. spellings: what it may be called. source: the checkpoint it was made from."""

    name: str
    path: Path
    size_bytes: int
    spellings: tuple[str, ...] = ()
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of weights that the engine does not read as they are. format: `safetensors`, `GPTQ`,
    `PyTorch` (pickles). size: of its weight files."""

    name: str
    path: Path
    format: str
    size_bytes: int
    spellings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything found, sorted by name. leading_out: names of links to somewhere else."""

    models: tuple[LocalModel, ...]
    checkpoints: tuple[Checkpoint, ...]
    leading_out: tuple[str, ...]

    @property
    def entries(self) -> tuple[LocalModel | Checkpoint, ...]:
        return (*self.models, *self.checkpoints)


NOTHING = Listing((), (), ())


def list_folder(folder: Path, within: Path | None = None) -> Listing:
    """What lies in `folder`; nothing, if it does not exist or may not be read. within: where links
    may lead, when that is more than the folder."""
    try:
        root = folder.resolve(strict=True)
        allowed = root if within is None else within.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return NOTHING
    inside, leading_out = _walk(root, allowed)
    ggufs = [path for path in inside if is_model_file(path.name)]
    models = [_model(path, root, ggufs) for path in ggufs]
    return Listing(
        tuple(sorted(models, key=lambda model: model.name)),
        tuple(_checkpoints(inside, ggufs, root)),
        tuple(leading_out),
    )


def stem_of(path: Path) -> str:
    """The name of a model file without `.gguf` and the number of the part."""
    return SHARD.sub("", path.name).removesuffix(".gguf")


def missing_parts(names: Collection[str]) -> list[str]:
    """The files that lack of the split models (GGUF or safetensors) of which `names` has some."""
    wanted: set[str] = set()
    for name in names:
        match = PART.search(name)
        if match:
            stem, count, end = name[: match.start()], match[2], match[3]
            wanted |= {f"{stem}-{n:05d}-of-{count}.{end}" for n in range(1, int(count) + 1)}
    return sorted(wanted.difference(names))


def split_size_bytes(path: Path) -> int:
    """The size of a model file, or of all files of the split model it is the first of."""
    match = SHARD.search(path.name)
    if not match:
        return _size_bytes(path)
    stem, count = path.name[: match.start()], match.group(2)
    shards = [path.with_name(f"{stem}-{n:05d}-of-{count}.gguf") for n in range(1, int(count) + 1)]
    return sum(map(_size_bytes, shards))


def _size_bytes(path: Path) -> int:
    """0 for what is no file, or is gone, or may not be looked at."""
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _walk(root: Path, allowed: Path) -> tuple[list[Path], list[str]]:
    """The regular files under `root`, and the links that lead out of `allowed`. What may not be
    entered or looked at is left out."""
    files: list[Path] = []
    leading_out: list[str] = []
    folders = [root]
    while folders:
        for entry in _entries(folders.pop()):
            path = Path(entry.path)
            if not entry.name.isprintable():
                continue
            if not _stays_inside(path, allowed):
                leading_out += [path.relative_to(root).as_posix(), path.stem]
                continue
            mode = _mode(entry)
            if stat.S_ISDIR(mode) and not entry.is_symlink():
                folders += [path] if len(path.relative_to(root).parts) < MAX_DEPTH else []
            elif stat.S_ISREG(mode):
                files.append(path)
            if len(files) >= MAX_ENTRIES:
                return files, leading_out
    return sorted(files), leading_out


def _mode(entry: os.DirEntry[str]) -> int:
    """Of what the entry leads to; 0 when it may not be looked at."""
    try:
        return entry.stat().st_mode
    except OSError:
        return 0


def _stays_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links
        return False


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return


def is_model_file(name: str) -> bool:
    """A GGUF of a model by its name: no further part of a split one, no image projector, no
    importance matrix."""
    lowered = name.lower()
    shard = SHARD.search(lowered)
    further = shard is not None and int(shard.group(1)) != 1
    beside = lowered.startswith(("mmproj", "imatrix"))
    return lowered.endswith(".gguf") and not further and not beside


def _model(path: Path, root: Path, ggufs: list[Path]) -> LocalModel:
    """Named after its file; also by its path in the folder, and by its folder if alone there."""
    stem = stem_of(path)
    relative = path.relative_to(root)
    above = relative.parent.as_posix()
    spellings = {path.name, stem, relative.as_posix(), (relative.parent / stem).as_posix()}
    if above != "." and sum(other.parent == path.parent for other in ggufs) == 1:
        spellings |= {above, relative.parent.name}
    unique = sum(stem_of(other) == stem for other in ggufs) == 1
    name = stem if unique else (relative.parent / stem).as_posix()
    return LocalModel(name, path, split_size_bytes(path), tuple(sorted(spellings)))


def _checkpoints(files: list[Path], ggufs: list[Path], root: Path) -> Iterator[Checkpoint]:
    """Folders with safetensors (or older) weights and no GGUF beside them."""
    usable = {path.parent for path in ggufs}
    for parent in sorted({path.parent for path in files} - usable - {root}):
        found = checkpoint_of(parent, [path for path in files if path.parent == parent])
        if found is not None:
            name = parent.relative_to(root).as_posix()
            yield replace(found, name=name, spellings=tuple(dict.fromkeys((name, parent.name))))


def checkpoint_of(folder: Path, files: Sequence[Path]) -> Checkpoint | None:
    """The checkpoint that `files` of `folder` are, named as the folder; None without weights."""
    kind = format_of({path.name for path in files})
    if kind is None:
        return None
    weights = [path for path in files if path.name.endswith(WEIGHTS)]
    return Checkpoint(folder.name, folder, kind, sum(map(_size_bytes, weights)), (folder.name,))


def format_of(names: set[str]) -> str | None:
    """The format of the weights in a folder with files of these names; None without weights."""
    weights = [name for name in names if name.endswith(WEIGHTS)]
    if not weights:
        return None
    if "quantize_config.json" in names or any("gptq" in name.lower() for name in weights):
        return "GPTQ"
    return "safetensors" if any(name.endswith(".safetensors") for name in weights) else "PyTorch"
