"""What a name of a Hugging Face repository means: which of its files, and where they are."""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from okno.core.errors import BadSetting, ModelNotFound, SourceUnreachable
from okno.inspect.source_http import Access, HttpSource

ENDPOINT = "https://huggingface.co"
REFERENCE = re.compile(
    r"(?P<owner>[\w.-]{1,96})/(?P<repo>[\w.-]{1,96})(?:/(?P<file>[^:@\s]{1,500}))?"
    r"(?:@(?P<revision>[\w./-]{1,200}))?(?::(?P<quant>[\w.-]{1,40}))?"
)
PAGE = re.compile(r"/(?:blob|raw)/")
MAX_SHOWN = 12
YES = ("1", "on", "yes", "true")


@dataclass(frozen=True, slots=True)
class Reference:
    """`owner/repo`, maybe a file in it, a revision and a quantisation."""

    owner: str
    repo: str
    file: str | None = None
    revision: str = "main"
    quant: str | None = None

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.repo}"


def parse_reference(text: str) -> Reference | None:
    """`TheBloke/Saiga-GGUF:Q4_K_M`, `owner/repo/file.gguf@revision`; None when it is none."""
    found = REFERENCE.fullmatch(text.removeprefix("hf:"))
    if found is None or ".." in text.split("/"):
        return None
    parts = found.groupdict()
    return Reference(
        parts["owner"], parts["repo"], parts["file"], parts["revision"] or "main", parts["quant"]
    )


def open_address(address: str) -> HttpSource:
    """The file at an http(s) address; the page of a file on the hub means the file. Raises
    ModelNotFound for what is no address."""
    try:
        host = urlsplit(address).hostname
    except ValueError:
        host = None
    if not host:
        raise ModelNotFound(f"{address[:200]!r} is no address of a file.")
    if is_hub(address):
        return open_on_hub(PAGE.sub("/resolve/", address, count=1))
    return HttpSource(address)


def open_reference(reference: Reference) -> HttpSource:
    """The file that `reference` means: a GGUF, or the config.json of a safetensors repository.

    Raises ModelNotFound with what there is when that is not one file.
    """
    file = reference.file or _chosen(reference, _files_of(reference))
    path = f"{reference.id}/resolve/{quote(reference.revision, safe='')}/{quote(file)}"
    return open_on_hub(f"{endpoint()}/{path}")


def open_on_hub(address: str) -> HttpSource:
    """Raises SourceUnreachable when the user wants no network (HF_HUB_OFFLINE)."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in YES:
        raise SourceUnreachable(
            f"{address} is not asked for: HF_HUB_OFFLINE is set. Unset it, or give a local file."
        )
    host = urlsplit(endpoint()).netloc
    return HttpSource(address, Access(host, os.environ.get("HF_TOKEN", "").strip()))


def endpoint() -> str:
    """The hub, or the mirror in HF_ENDPOINT. Raises BadSetting for one that is no address."""
    found = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    if urlsplit(found).scheme not in ("http", "https"):
        raise BadSetting(f"HF_ENDPOINT={found!r} is no http(s) address.", param="HF_ENDPOINT")
    return found


def is_hub(address: str) -> bool:
    return urlsplit(address).netloc == urlsplit(endpoint()).netloc


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
    """The one GGUF that is meant, else config.json."""
    ggufs = [file for file in files if _is_model(file)]
    wanted = (reference.quant or "").lower()
    fitting = [file for file in ggufs if _has_quant(file, wanted)] if wanted else ggufs
    if len(fitting) == 1:
        return fitting[0]
    if not ggufs and "config.json" in files:
        return "config.json"
    shown = ", ".join(ggufs[:MAX_SHOWN]) or "no GGUF file and no config.json"
    raise ModelNotFound(
        f"{reference.id} has {shown}. Say which: {reference.id}/FILE or {reference.id}:QUANT."
    )


def _is_model(file: str) -> bool:
    """A GGUF of a model: no projector, no importance matrix, no further part of a split one."""
    name = file.rsplit("/", 1)[-1].lower()
    part = re.search(r"-(\d{5})-of-\d{5}\.gguf$", name)
    is_further = part is not None and part.group(1) != "00001"
    return name.endswith(".gguf") and not is_further and not name.startswith(("mmproj", "imatrix"))


def _has_quant(file: str, wanted: str) -> bool:
    return re.search(rf"(^|[-._/]){re.escape(wanted)}([-._/]|$)", file.lower()) is not None
