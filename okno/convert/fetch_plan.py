"""What a download would bring, before it begins: files, sizes, and what is here already."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import okno
from okno.convert.hub_errors import explained, offline
from okno.convert.hub_files import HubFile, needed
from okno.core.errors import SourceUnreachable
from okno.inspect.hub_cache import COMMIT, SNAPSHOTS
from okno.inspect.hub_home import hub_cache, hub_token, is_offline
from okno.inspect.source_hub import Reference, endpoint, shown_endpoint

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

SHA256 = re.compile(r"[0-9a-f]{64}")
SHA1 = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """commit: of the revision, when the plan was made. files: all that the model needs, the
    weights last. repository: the folder of the hub's cache for it."""

    reference: Reference
    commit: str
    files: tuple[HubFile, ...]
    repository: Path

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """What is still to be fetched; a download that was cut short goes on."""
        return sum(file.size_bytes - self.here_bytes(file) for file in self.files)

    @property
    def unchecked(self) -> tuple[HubFile, ...]:
        """Those of which the hub (a mirror, then) tells no checksum."""
        return tuple(file for file in self.files if file.digest is None)

    @property
    def snapshot(self) -> Path:
        return self.repository / SNAPSHOTS / self.commit

    @property
    def weights(self) -> tuple[HubFile, ...]:
        return tuple(f for f in self.files if f.name.endswith((".gguf", ".safetensors")))

    @property
    def model_path(self) -> Path:
        """The (first) GGUF file, else the folder of the checkpoint."""
        first = self.weights[0].name
        return self.snapshot / first if first.endswith(".gguf") else self.snapshot

    def blob(self, file: HubFile) -> Path:
        """Where its content belongs: the layout of huggingface_hub's cache."""
        assert file.digest is not None
        return self.repository / "blobs" / file.digest

    def partial(self, file: HubFile) -> Path:
        """Where it grows. `.incomplete` is how huggingface_hub knows (and prunes) such files."""
        return self.blob(file).with_name(f"{file.digest}.okno.incomplete")

    def here_bytes(self, file: HubFile) -> int:
        if file.digest is None:
            return 0
        for path in (self.blob(file), self.partial(file)):
            if path.is_file():
                return min(path.stat().st_size, file.size_bytes)
        return 0


def hub_api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="okno", library_version=okno.__version__)


def plan_fetch(reference: Reference, cache: Path | None = None) -> FetchPlan:
    """Ask the hub what `reference` is made of.

    Raises ModelNotFound, ModelUnusable, AccessDenied, SourceUnreachable.
    """
    from huggingface_hub.errors import HFValidationError

    folder = cache or hub_cache()
    if is_offline():
        raise offline(reference)
    hub_token()  # one that no header can carry is said before the library meets it
    with explained(reference, folder):
        try:
            found = hub_api().model_info(
                reference.id, revision=reference.revision, files_metadata=True, timeout=TIMEOUT_S
            )
            files = [_file(sibling) for sibling in found.siblings or []]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, HFValidationError):
                raise
            raise _no_hub(reference) from None
    if not isinstance(found.sha, str) or not COMMIT.fullmatch(found.sha):
        raise _no_hub(reference)
    repository = folder / f"models--{reference.owner}--{reference.repo}"
    sound = [file for file in files if is_safe(file.name)]
    return FetchPlan(reference, found.sha, needed(reference, sound), repository)


def _file(sibling: RepoSibling) -> HubFile:
    """Raises TypeError for what a hub does not say; the library checks nothing of it."""
    large = sibling.lfs
    n_bytes = (large.size if large else sibling.size) or 0
    if not isinstance(sibling.rfilename, str) or not isinstance(n_bytes, int) or n_bytes < 0:
        raise TypeError(sibling)
    return HubFile(
        sibling.rfilename,
        n_bytes,
        _matching(SHA256, large.sha256 if large else None),
        _matching(SHA1, sibling.blob_id),
    )


def _no_hub(reference: Reference) -> SourceUnreachable:
    return SourceUnreachable(
        f"{shown_endpoint()} does not tell what {reference.id} is made of, as a hub does. Check "
        "HF_ENDPOINT, or try again later."
    )


def is_safe(name: str) -> bool:
    """A file name of a repository that stays in its folder."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _matching(pattern: re.Pattern[str], digest: str | None) -> str | None:
    return digest if digest and pattern.fullmatch(digest) else None
