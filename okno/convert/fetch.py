"""Models from the Hugging Face hub into huggingface_hub's own cache.

Each file grows in a partial file beside its place, is checked against the hub's digest, and only
then becomes part of the cache: what is cut short goes on, and what is damaged is never seen. Where
a mirror tells no digest the library fetches, and size and header are checked afterwards. The
library (2.4) deletes a download that is cut short, so the bytes come through its `http_get`, with
its tokens, mirrors and retries; links and references of the cache are the library's own work.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import okno
from okno.convert.disk import check_room
from okno.convert.fetch_plan import FetchPlan, hub_api
from okno.convert.hub_errors import explained
from okno.convert.hub_files import HubFile
from okno.convert.progress import Progress, silent
from okno.core.errors import ModelUnusable, SourceUnreachable
from okno.inspect.gguf import read_gguf_file
from okno.inspect.safetensors import read_tensors
from okno.inspect.source import LocalSource
from okno.inspect.source_hub import endpoint

CHUNK_BYTES = 4 * 1024 * 1024
FETCHING, CHECKING = "Downloading", "Checking"


def fetch(plan: FetchPlan, progress: Progress = silent, *, free_bytes: int | None = None) -> Path:
    """Bring what `plan` lacks and check all of it; the path of its GGUF file or checkpoint folder.

    Raises DiskFull before a byte is asked for (free_bytes: instead of asking the system), and
    SourceUnreachable, AccessDenied, ModelNotFound. What was downloaded by then is kept.
    """
    cache = plan.repository.parent
    what = f"The download of {plan.reference.id}"
    check_room(cache, plan.missing_bytes, what, free_bytes=free_bytes)
    reporter = _Reporter(progress, plan.total_bytes, plan.total_bytes - plan.missing_bytes)
    with explained(plan.reference, cache):
        for file in plan.files:
            _bring(plan, file, reporter)
        _keep_reference(plan)
    return plan.model_path


class _Reporter:
    """Adds up the bytes of all files for a Progress."""

    def __init__(self, progress: Progress, total_bytes: int, here_bytes: int) -> None:
        self._progress = progress
        self._total = total_bytes
        self._done = here_bytes
        self._fetched = 0
        self._began = time.monotonic()

    def fetched(self, count: float | None) -> None:
        """`count` more bytes came (fewer than none: they come again)."""
        self._done += int(count or 0)
        self._fetched += int(count or 0)
        taken = time.monotonic() - self._began
        left = (self._total - self._done) * taken / self._fetched if self._fetched > 0 else None
        self._progress(FETCHING, min(self._done, self._total), self._total, left)

    def checked(self, done: int, total: int) -> None:
        self._progress(CHECKING, done, total, None)


def _bring(plan: FetchPlan, file: HubFile, reporter: _Reporter) -> None:
    """The content of one file, then its link in the snapshot."""
    from filelock import FileLock
    from huggingface_hub import constants, hf_hub_download

    if file.digest is not None and file.size_bytes <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        blob = plan.blob(file)
        lock = plan.repository.parent / ".locks" / plan.repository.name / f"{file.digest}.lock"
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # the library's own, so that two programs fetch once
            _blob(plan, file, blob, reporter)
    linked = Path(
        hf_hub_download(
            plan.reference.id, file.name, revision=plan.commit, endpoint=endpoint(),
            cache_dir=plan.repository.parent, tqdm_class=_bar(reporter.fetched),
        )
    )  # fmt: skip
    if file.digest is None:
        _check_whole(plan, file, linked)
    elif linked.resolve().name != file.digest:
        _check(plan, file, linked, reporter)


def _blob(plan: FetchPlan, file: HubFile, blob: Path, reporter: _Reporter) -> None:
    """Make `blob` whole and sound."""
    if blob.is_file():
        if _digest(file, blob, reporter) == file.digest:
            return
        blob.unlink()  # damaged on this disk: the hub's copy replaces it
        reporter.fetched(-file.size_bytes)
    partial = plan.partial(file)
    try:
        _grow(plan, file, partial, reporter)
    finally:
        if partial.is_file() and not partial.stat().st_size and file.size_bytes:  # nothing came
            partial.unlink()
    _check(plan, file, partial, reporter)
    os.replace(partial, blob)


def _grow(plan: FetchPlan, file: HubFile, partial: Path, reporter: _Reporter) -> None:
    """Download the rest of `partial`."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(plan.reference.id, file.name, revision=plan.commit, endpoint=endpoint())
    headers = _headers()
    with partial.open("ab") as out:
        begun = out.tell()
        if begun > file.size_bytes:  # not of this file
            out.truncate(0)
            begun = 0
        http_get(
            url, out, resume_size=begun, headers=headers, expected_size=file.size_bytes,
            displayed_filename=file.name, tqdm_class=_bar(reporter.fetched),
        )  # fmt: skip
        out.flush()
        os.fsync(out.fileno())


def _headers() -> dict[str, str]:
    """Who asks, with the library's token. Nothing compressed: sizes are those of the file."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    who = {"User-Agent": f"okno/{okno.__version__}", "Accept-Encoding": "identity"}
    return who | {"Authorization": f"Bearer {token}"} if token else who


def _check_whole(plan: FetchPlan, file: HubFile, path: Path) -> None:
    """What can be known without a checksum: the size, where the hub tells one, and that a file of
    weights is as long as its header says. A wrong file is removed."""
    n_bytes, why = path.stat().st_size, ""
    if file.size_bytes and n_bytes != file.size_bytes:
        why = f"it has {n_bytes:,} bytes and not {file.size_bytes:,}"
    elif file.name.endswith((".safetensors", ".gguf")):
        read = read_tensors if file.name.endswith(".safetensors") else read_gguf_file
        try:
            with closing(LocalSource(path)) as source:
                read(source)
        except ModelUnusable as error:
            why = error.message
    if why:
        raise _thrown_away(plan, file, path, why)


def _check(plan: FetchPlan, file: HubFile, path: Path, reporter: _Reporter) -> None:
    """Compare with the hub's digest. A wrong file is removed, so that it is fetched anew."""
    if _digest(file, path, reporter) != file.digest:
        raise _thrown_away(plan, file, path, "another checksum")


def _thrown_away(plan: FetchPlan, file: HubFile, path: Path, why: str) -> SourceUnreachable:
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return SourceUnreachable(
        f"{file.name} of {plan.reference.id} did not arrive as the hub has it ({why.rstrip('.')}), "
        "so it was thrown away. Run the same command again; when it stays so, something on the way "
        "(a proxy, a mirror in HF_ENDPOINT) changes files."
    )


def _digest(file: HubFile, path: Path, reporter: _Reporter) -> str:
    """Its SHA-256, or SHA-1 as git takes it: of `blob SIZE\\0` and the content."""
    total = path.stat().st_size
    made = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % total)
    done = 0
    with path.open("rb") as data:
        while piece := data.read(CHUNK_BYTES):
            made.update(piece)
            done += len(piece)
            reporter.checked(done, total)
    return made.hexdigest()


def _keep_reference(plan: FetchPlan) -> None:
    """Note in the cache which commit the branch or tag is."""
    if plan.reference.revision != plan.commit:
        hub_api().resolve_revision(
            plan.reference.id, revision=plan.reference.revision, cache_dir=plan.repository.parent
        )


def _bar(take: Callable[[float | None], None]) -> Any:
    """A class that huggingface_hub takes for one of tqdm's: it only counts bytes."""

    class Bar:
        def __init__(self, *_: object, **__: object) -> None: ...

        def update(self, count: float | None = 1) -> None:
            take(count)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

    return Bar
