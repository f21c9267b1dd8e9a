"""What a name of a Hugging Face repository means: which of its files, and where they are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

from okno.core.errors import BadSetting, ModelNotFound, SourceUnreachable
from okno.inspect.hub_home import hub_token, is_offline
from okno.inspect.listing import is_model_file
from okno.inspect.safetensors import only_weights
from okno.inspect.source_http import Access, HttpSource, origin_of

MAIN = "main"
ENDPOINT = "https://huggingface.co"
REFERENCE = re.compile(
    r"(?P<owner>[\w.-]{1,96})/(?P<repo>[\w.-]{1,96})(?:/(?P<file>[^:@\s]{1,500}))?"
    r"(?:@(?P<before>[\w./-]{1,200}))?(?::(?P<quant>[\w.-]{1,40}))?(?:@(?P<after>[\w./-]{1,200}))?"
)
PAGE = re.compile(r"^(/[^/]+/[^/]+)/(?:blob|raw)/")
FILE_ENDS = (".gguf", ".safetensors")
MAX_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Reference:
    """`owner/repo`, maybe a file in it, a revision and a quantisation."""

    owner: str
    repo: str
    file: str | None = None
    revision: str = MAIN
    quant: str | None = None

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.repo}"

    @property
    def is_narrowed(self) -> bool:
        """It says more than the repository."""
        return bool(self.file or self.quant or self.revision != MAIN)


def parse_reference(text: str) -> Reference | None:
    """`TheBloke/Saiga-GGUF:Q4_K_M@revision`, `owner/repo/file.gguf`; None when it is none.

    `folder/model.gguf` is a file that is not here, no repository (`hf:folder/model.gguf` is one).
    """
    found = REFERENCE.fullmatch(text.removeprefix("hf:"))
    if found is None or ".." in re.split("[/@]", text):
        return None
    parts = found.groupdict()
    if (parts["before"] or parts["after"] or "").startswith("/"):
        return None
    if parts["repo"].lower().endswith(FILE_ENDS) and not text.startswith("hf:"):
        return None
    if parts["before"] and parts["after"]:
        return None
    revision = parts["before"] or parts["after"] or MAIN
    return Reference(parts["owner"], parts["repo"], parts["file"], revision, parts["quant"])


def open_address(address: str) -> HttpSource:
    """The file at an http(s) address. A page of the hub means what it shows: a file, or the model
    of a repository (as `open_reference` finds it). Raises ModelNotFound for what is no address."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise ModelNotFound(f"{address[:200]!r} is no address of a file.")
    hub = urlsplit(endpoint())
    if parts.netloc != hub.netloc:
        return HttpSource(address)
    if hub.scheme == "https":  # the token, and what the hub says, need it
        parts = parts._replace(scheme="https")
    shown = shown_repository(parts.path.removeprefix(hub.path))
    return open_reference(shown) if shown else open_on_hub(_file_of(parts, hub.path))


def shown_repository(path: str) -> Reference | None:
    """What the hub's page at `path` shows: `/owner/repo`, `/owner/repo/tree/main`; None for a file.
    Raises ModelNotFound for a folder in a repository."""
    words = [unquote(word) for word in path.strip("/").split("/")]
    is_tree = len(words) > 3 and words[2] == "tree"
    if not is_tree and len(words) != 2:
        return None
    found = parse_reference(f"hf:{words[0]}/{words[1]}" + (f"@{words[3]}" if is_tree else ""))
    if found is not None and len(words) > 4:
        raise ModelNotFound(
            f"{path[:200]} is a folder of {found.id}. Give the address of a file in it, or "
            f"{found.id}/FOLDER/FILE."
        )
    return found


def _file_of(parts: SplitResult, prefix: str) -> str:
    """The address of the file that a page (`/blob/`) shows."""
    path = PAGE.sub(r"\1/resolve/", parts.path.removeprefix(prefix), count=1)
    return parts._replace(path=prefix + path).geturl()


def open_reference(reference: Reference) -> HttpSource:
    """The file that `reference` means: a GGUF, or the config.json of a safetensors repository (the
    weights beside it, where only their name tells of them).

    Raises ModelNotFound with what there is when that is not one file.
    """
    file = reference.file or _chosen(reference, _files_of(reference))
    path = f"{reference.id}/resolve/{quote(reference.revision, safe='')}/{quote(file)}"
    return open_on_hub(f"{endpoint()}/{path}")


def open_on_hub(address: str) -> HttpSource:
    """Raises SourceUnreachable when the user wants no network (HF_HUB_OFFLINE)."""
    if is_offline():
        raise SourceUnreachable(
            f"{without_user(address)} is not asked for: HF_HUB_OFFLINE is set. Unset it, or give a "
            "local file."
        )
    return HttpSource(address, Access(origin_of(endpoint()), hub_token()))


def endpoint() -> str:
    """The hub, or the mirror in HF_ENDPOINT. Raises BadSetting for one that is no address."""
    found = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    if urlsplit(found).scheme not in ("http", "https"):
        raise BadSetting(f"HF_ENDPOINT={found!r} is no http(s) address.", param="HF_ENDPOINT")
    return found


def shown_endpoint() -> str:
    """The same for messages: without a user's name and password."""
    return without_user(endpoint())


def without_user(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1]).geturl()


def _files_of(reference: Reference) -> list[str]:
    address = (
        f"{endpoint()}/api/models/{reference.id}/revision/{quote(reference.revision, safe='')}"
    )
    with closing(open_on_hub(address)) as source:
        data = source.read(0, source.size_bytes)
    try:
        siblings = json.loads(data)["siblings"]
        return [str(entry["rfilename"]) for entry in siblings]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SourceUnreachable(f"{source.where} does not list the files of a model.") from None


def _chosen(reference: Reference, files: list[str]) -> str:
    """The one GGUF that is meant, else config.json or the only weights beside it."""
    ggufs = [file for file in files if is_model_file(file.rsplit("/", 1)[-1])]
    wanted = (reference.quant or "").lower()
    fitting = with_quant(ggufs, wanted) if wanted else ggufs
    if len(fitting) == 1:
        return fitting[0]
    if not ggufs and "config.json" in files:
        beside = [file for file in files if "/" not in file]
        return only_weights(beside) or "config.json"
    shown = ", ".join(ggufs[:MAX_SHOWN]) or "no GGUF file and no config.json"
    raise ModelNotFound(
        f"{reference.id} has {shown}. Say which: {reference.id}/FILE or {reference.id}:QUANT."
    )


def with_quant(files: Sequence[str], wanted: str) -> list[str]:
    """The files whose names say that they are stored as `wanted` (`Q4_K_M`, `q8_0`); `Q4_K` is
    `Q4_K_M` only where nothing is called just so."""
    word = re.escape(wanted.lower())
    for end in ("[-./]|$", "[-._/]|$"):
        pattern = re.compile(rf"(^|[-._/]){word}({end})")
        found = [file for file in files if pattern.search(file.lower())]
        if found:
            return found
    return []
