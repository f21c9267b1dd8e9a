"""Which model is meant: a file here, a model of the catalog, or a file on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from okno.advisor.quants import DEFAULT_QUANT, FINEST_FIRST, requantised
from okno.advisor.report import Subject
from okno.core.errors import ModelNotFound, OknoError
from okno.core.header import ModelHeader
from okno.inspect.catalog import CatalogModel, candidates_in_catalog, find_in_catalog
from okno.inspect.fewer_bits import is_quantised_to
from okno.inspect.header import header_of_catalog, read_header
from okno.inspect.listing import Checkpoint
from okno.inspect.models import find_by_name, find_local, models_folder
from okno.inspect.source_hub import FILE_ENDS, parse_reference


@dataclass(frozen=True, slots=True)
class Found:
    """path: of the GGUF file, None when it is not here. entry: of the catalog. quants: formats
    that may be chosen from, finest first, when none was asked for and no file decides."""

    header: ModelHeader
    where: str
    path: Path | None = None
    entry: CatalogModel | None = None
    is_estimated: bool = False
    quants: tuple[str, ...] = ()

    @property
    def subject(self) -> Subject:
        header = self.header
        return Subject(
            header.name, self.where, header.architecture, header.n_params, header.file_type,
            header.file_bytes, header.ctx_train, self.is_estimated,
        )  # fmt: skip

    def stored_as(self, quant: str) -> Found:
        """The same model in another format: of the catalog, or as requantising would make it."""
        header = (
            header_of_catalog(self.entry, quant)
            if self.entry and self.path is None
            else requantised(self.header, quant)
        )
        is_own = header.file_type == self.header.file_type and not self.is_estimated
        if is_own:
            return self
        return Found(header, self.where, None, self.entry, is_estimated=True)

    def quantised_to(self, file_type: str) -> Found:
        """As loading it with --load-in-8bit or --load-in-4bit makes it; a model of the catalog, of
        which no file is known, as a checkpoint of it would become."""
        if self.is_estimated or is_quantised_to(self.header.file_type, file_type):
            return self.stored_as(file_type)
        return self


def find(
    asked: str, models_dir: Path | None = None, quant: str | None = None, *, by_name: bool = False
) -> Found:
    """The model `asked` means, stored as `quant`. A local file comes first, then the catalog, then
    the hub (only its header is fetched). by_name: only names in the models folder and of the
    catalog, for who is not at the keyboard: no paths, nothing over the network.

    Raises ModelNotFound, ModelUnusable, BadSetting for an unknown quantisation, and what reading
    over the network raises.
    """
    local = _local(asked, models_dir, by_name)
    if local is not None:
        return local.stored_as(quant) if quant else local
    if not by_name and _is_on_hub(asked):
        header = read_header(asked)
        found = Found(header, asked)
        return found.stored_as(quant) if quant else found
    return _in_catalog(asked, quant)


def _local(asked: str, models_dir: Path | None, by_name: bool) -> Found | None:
    """The file here; None when another place may know the name."""
    if by_name and "://" in asked:
        raise ModelNotFound("A model is named here, not addressed; give a name of the catalog.")
    look = find_by_name if by_name else find_local
    try:
        model = look(asked, models_folder(models_dir))
    except ModelNotFound:
        names_a_file = asked.lower().endswith(FILE_ENDS) and not _is_on_hub(asked)
        if asked.startswith(("/", "./", "../", "~")) or names_a_file:
            raise
        if not candidates_in_catalog(asked) and (by_name or not _is_on_hub(asked)):
            raise
        return None
    if isinstance(model, Checkpoint):
        return Found(read_header(model.path), str(model.path))
    return Found(read_header(model.path), str(model.path), model.path)


def _is_on_hub(asked: str) -> bool:
    """An address, a file, or a repository that the catalog does not know."""
    if asked.startswith(("http://", "https://", "hf:")):
        return True
    reference = parse_reference(asked)
    if reference is None:
        return False
    return bool(reference.file or reference.quant) or not candidates_in_catalog(asked)


def _in_catalog(asked: str, quant: str | None) -> Found:
    entry = find_in_catalog(asked)
    header = header_of_catalog(entry, quant or DEFAULT_QUANT)
    found = Found(header, f"catalog: {entry.id}", None, entry, is_estimated=True)
    if quant:
        return found
    return Found(header, found.where, None, entry, is_estimated=True, quants=FINEST_FIRST[1:])


def known_size(entry: CatalogModel, quant: str) -> int | None:
    """Bytes of a published file in that format, exact before rounded; None when none is listed."""
    named = [file for file in entry.files if file.quant.upper() == quant.upper()]
    named.sort(key=lambda file: not file.is_exact)
    return named[0].n_bytes if named else None


def smaller_models(entry: CatalogModel | None, most: int = 40) -> list[CatalogModel]:
    """Models of the catalog of the same kind and family first, largest first."""
    from okno.inspect.catalog import catalog

    kind = entry.kind if entry else "chat"
    family = entry.family if entry else None
    same = [one for one in catalog() if one.kind == kind and one is not entry and one.total_params]
    same.sort(key=lambda one: (one.family != family, -(one.total_params or 0)))
    return same[:most]


def header_or_none(entry: CatalogModel, quant: str) -> ModelHeader | None:
    """Its header, where its shape is known."""
    try:
        return header_of_catalog(entry, quant)
    except OknoError:
        return None
