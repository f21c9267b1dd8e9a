"""Where engine-ready files are kept: one folder, one file for each source and what was wanted.

A file appears under its name only when it is whole. While it is made it has the ending PART and its
maker holds a lock; what a maker that was killed left behind is removed at the next start.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from okno.convert.disk import check_room, no_room
from okno.convert.progress import Progress, silent
from okno.convert.wants import Wants
from okno.core.errors import BadSetting, ModelUnusable
from okno.core.paths import expanded

DATA_DIR = "OKNO_DATA_DIR"
FOLDER = "converted"
WAITING = "Waiting for another okno that makes it"
PART, LOCKS = ".okno.part", "locks"  # nobody else calls a file so: it may be removed


def converted_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`converted` in OKNO_DATA_DIR, else in the user cache folder: all of it can be made again.
    Raises BadSetting for the home folder of nobody."""
    given = environment.get(DATA_DIR)
    if given:
        return expanded(given, BadSetting).absolute() / FOLDER
    return Path(platformdirs.user_cache_dir("okno", appauthor=False)) / FOLDER


def cached_path(kept: Path, source: Path, name: str, wants: Wants) -> Path:
    """The file in `kept` for the model `name` at `source`. Sources of one name in several places
    have different files."""
    plain = re.sub(r"[^\w.-]", "_", name)[:80]
    place = hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:8]
    ending = f"-{wants.file_type}" if wants.file_type else ""
    return kept / f"{plain}{ending}-{place}.gguf"


@contextmanager
def locked(path: Path, progress: Progress = silent) -> Iterator[None]:
    """Only one process at a time makes `path`; others wait, and tell `progress` so. The lock of a
    process that died is free. Raises ModelUnusable when the folder cannot be written."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_of(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(WAITING, 0, 0, None)
            lock.acquire()
    except OSError as error:
        raise ModelUnusable(
            f"{error.filename or path.parent} cannot be written ({error.strerror}). Converted "
            f"models and their locks go to {converted_folder()}: make it writable, or choose "
            f"another folder with {DATA_DIR}."
        ) from None
    try:
        yield
    finally:
        lock.release()


def lock_of(path: Path) -> Path:
    """The lock lies in a folder of its own: nobody may remove it while another may hold it."""
    locks = converted_folder() / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    return locks / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:24]}.lock"


def part_of(path: Path) -> Path:
    """The name of `path` while it is made."""
    return path.with_name(path.name + PART)


@contextmanager
def written(path: Path, needed_bytes: int, what: str) -> Iterator[Path]:
    """Gives the file to write, which becomes `path` when the block ends well, and is removed when
    it does not. Hold the lock of `path` meanwhile.

    what: what is done, for messages (`Converting Saiga`). Raises DiskFull before anything is
    written or when the disk becomes full, ModelUnusable for other reasons the disk gives.
    """
    part = part_of(path)
    try:
        part.unlink(missing_ok=True)
        check_room(path.parent, needed_bytes, what)
        yield part
        _publish(part, path)
    except OSError as error:
        raise no_room(error, what, path.parent) or ModelUnusable(
            f"{path.parent} cannot be written: {error.strerror}. Choose another folder (for "
            f"converted models {DATA_DIR} names it)."
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _publish(part: Path, path: Path) -> None:
    """The finished file gets its name, for good."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sweep(kept: Path) -> None:
    """Remove what makers that died left in `kept`: parts that nobody holds the lock of."""
    from filelock import FileLock, Timeout

    for part in sorted(kept.glob(f"*{PART}")):
        path = part.with_name(part.name.removesuffix(PART))
        try:
            with FileLock(lock_of(path), timeout=0):
                part.unlink(missing_ok=True)
        except (Timeout, OSError):
            continue
