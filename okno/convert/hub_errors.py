"""What the hub and the network answer, as okno's errors: each says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from okno.convert.disk import no_room
from okno.core.errors import (
    AccessDenied,
    ModelNotFound,
    ModelUnusable,
    OknoError,
    SourceUnreachable,
)
from okno.inspect.hub_home import hub_token
from okno.inspect.source_hub import Reference, shown_endpoint

TOKEN_HELP = "Give an access token as HF_TOKEN, or log in with `hf auth login`."


@contextmanager
def explained(reference: Reference, cache: Path) -> Iterator[None]:
    """Turn what huggingface_hub raises in the block into okno's errors."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise offline(reference) from None
    except HfHubHTTPError as error:
        code = error.response.headers.get("X-Error-Code", "")
        raise _refused(reference, error.response.status_code, code) from None
    except HFValidationError as error:
        raise ModelNotFound(f"{reference.id} is no name of a repository: {error}") from None
    except httpx2.HTTPError as error:
        raise _unreachable(reference, error) from None
    except OSError as error:
        raise _on_disk(reference, error, cache) or _unreachable(reference, error) from None


def offline(reference: Reference) -> SourceUnreachable:
    return SourceUnreachable(
        f"HF_HUB_OFFLINE is set, so the hub is not asked for {reference.id}. Unset it, or name a "
        "model that is here (`okno models`)."
    )


def _refused(reference: Reference, status: int, code: str) -> OknoError:
    where, hub = reference.id, shown_endpoint()
    if code == "GatedRepo" or (status == 403 and code != "RepoNotFound"):
        return AccessDenied(
            f"{where} is gated: its publisher shows it after you accept the licence at "
            f"{hub}/{where}. Do that with your account. {TOKEN_HELP}"
        )
    if status == 401 and hub_token():
        return AccessDenied(
            f"{where} may not be read (401): the hub does not accept the access token (HF_TOKEN, "
            "or that of `hf auth login`), or it may not see this repository. Check the name, or "
            f"make a new token at {hub}/settings/tokens."
        )
    if code == "RevisionNotFound":
        return ModelNotFound(
            f"{where} has no revision {reference.revision!r}. Give a branch, a tag or a commit "
            f"that its page lists, or leave @{reference.revision} out."
        )
    if status == 401 or (status == 404 and code == "RepoNotFound"):
        return ModelNotFound(
            f"There is no repository {where} on {hub}, or it is private. Check the name "
            f"(owner/repository). If it is private: {TOKEN_HELP}"
        )
    if status in (404, 410):
        return ModelNotFound(f"{hub} has no {where} ({code or status}). Check the name.")
    wait = "It asks to wait: try again in some minutes" if status == 429 else "Try again later"
    return SourceUnreachable(
        f"{hub} answers with status {status} for {where}. {wait}; what was downloaded is "
        "kept, and the same command goes on from there."
    )


def _on_disk(reference: Reference, error: OSError, cache: Path) -> OknoError | None:
    """When it is not the network that fails, but this machine's disk: such errors name a file."""
    full = no_room(error, f"the download of {reference.id}", cache)
    if full is not None or error.filename is None:
        return full
    return ModelUnusable(
        f"{reference.id} cannot be stored: {error.filename}: {error.strerror or error}. Make "
        f"{cache} writable, or name another folder with HF_HOME or HF_HUB_CACHE."
    )


def _unreachable(reference: Reference, error: Exception) -> SourceUnreachable:
    reason = str(error).strip().splitlines()[0].rstrip(".")[:200] if str(error).strip() else ""
    hub = shown_endpoint()
    return SourceUnreachable(
        f"{reference.id} cannot be fetched from {hub}: {reason or type(error).__name__}. "
        "Check the network (HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy); what was downloaded "
        "is kept, and the same command goes on from there."
    )
