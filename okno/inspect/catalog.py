"""The catalog: models with their shapes, published sizes and quality, each with its source.

The data ships as okno/data/catalog.json (made by tools/catalog/build.py) and is read when it is
first asked for. A None means: not found in public material.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from okno.core.errors import ModelNotFound
from okno.inspect.names import key, nearest

MAX_SHOWN = 8
# What is added to a model's name when it is repacked: TheBloke/Mistral-7B-v0.1-GPTQ.
REPACKED = re.compile(
    r"[-_.]?(gguf|gptq|awq|exl2|bnb|mlx|hf|int[48]|[48]bit|4b-\d+g|128g|(ud|i1)?[-_.]?i?q\d\w*|"
    r"mxfp4\w*|bf16|fp16|f16|fp8|safetensors)$"
)

FILLERS = frozenset({"instruct", "chat", "it"})


@dataclass(frozen=True, slots=True)
class Moe:
    """Experts of a mixture. n_ff: width of one; n_ff_shared: of all shared ones together; n_dense:
    first blocks without experts; every: each n-th block has them."""

    n_expert: int
    n_used: int
    n_ff: int
    n_shared: int | None = None
    n_ff_shared: int | None = None
    n_dense: int = 0
    every: int = 1


@dataclass(frozen=True, slots=True)
class Mla:
    """Latent attention (DeepSeek): ranks and widths of a head."""

    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    q_rank: int | None = None


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """tokens: None when not known. n_full: blocks that see everything; n_shared: last blocks that
    use the cache of others; global_head_dim, global_heads_kv: of full blocks, where these differ;
    k_is_v: full blocks have no values of their own."""

    tokens: int | None = None
    n_full: int | None = None
    n_shared: int = 0
    global_head_dim: int | None = None
    global_heads_kv: int | None = None
    k_is_v: bool = False


@dataclass(frozen=True, slots=True)
class Recurrent:
    """Layers that keep a state instead of keys and values.

    attention_every: each n-th block has attention; attention_layers: the blocks that have it;
    n_attention: how many; pattern: a letter for each block (M: Mamba, *: attention, -: MLP,
    E: experts); is_unknown: it has such layers, but which and of what size was not found.
    """

    attention_every: int | None = None
    attention_layers: tuple[int, ...] = ()
    n_attention: int | None = None
    pattern: str | None = None
    n_head: int | None = None
    head_dim: int | None = None
    state: int | None = None
    n_group: int | None = None
    kernel: int | None = None
    short_cache: int | None = None
    is_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model. architecture: GGUF's name. assumed: fields taken from a near relative
    because the model's own were not found."""

    architecture: str | None = None
    n_layer: int | None = None
    n_embd: int | None = None
    n_ff: int | None = None
    n_head: int | None = None
    n_head_kv: int | None = None
    head_dim: int | None = None
    n_vocab: int | None = None
    ctx_train: int | None = None
    rope_base: float | None = None
    tied: bool | None = None
    has_vision: bool = False
    moe: Moe | None = None
    mla: Mla | None = None
    window: SlidingWindow | None = None
    recurrent: Recurrent | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A GGUF that is published. n_bytes: exact, or from a size rounded for people. source: a
    number in Catalog.texts."""

    quant: str
    n_bytes: int
    is_exact: bool
    repo: str | None = None
    file: str | None = None
    source: int | None = None


@dataclass(frozen=True, slots=True)
class GptqCheckpoint:
    repo: str
    bits: int | None = None
    group_size: int | None = None
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """A published figure; figures of different metrics cannot be compared."""

    metric: str
    value: float
    rank: int | None = None
    source: int | None = None


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model of the catalog. id: its Hugging Face repository. kind: chat, code, reasoning,
    hybrid-reasoning, base, embedding, reranker. russian: `specialised`, `declared`, None. sources:
    what a fact rests on, as numbers in Catalog.texts."""

    id: str
    family: str
    kind: str
    shape: Shape
    base_model: str | None = None
    license: str | None = None
    release: str | None = None
    languages: tuple[str, ...] = ()
    russian: str | None = None
    total_params: int | None = None
    active_params: int | None = None
    gguf_repos: tuple[str, ...] = ()
    files: tuple[PublishedFile, ...] = ()
    gptq: tuple[GptqCheckpoint, ...] = ()
    quality: tuple[Quality, ...] = ()
    sources: dict[str, int] = field(default_factory=dict)
    notes: str | None = None

    @property
    def name(self) -> str:
        """The id without its owner."""
        return self.id.rsplit("/", 1)[-1]

    @property
    def repos(self) -> tuple[str, ...]:
        """Every repository that is known to hold it."""
        published = tuple(file.repo for file in self.files if file.repo)
        return (self.id, *self.gguf_repos, *published, *(found.repo for found in self.gptq))


@dataclass(frozen=True, slots=True)
class Catalog:
    """generated: the day. origins: the collections of facts. texts: sources by number."""

    generated: str
    origins: dict[str, str]
    texts: tuple[str, ...]
    models: tuple[CatalogModel, ...]


@cache
def whole_catalog() -> Catalog:
    """The catalog with its sources."""
    import msgspec

    data = (files("okno") / "data" / "catalog.json").read_bytes()
    return msgspec.json.decode(data, type=Catalog)


def catalog() -> tuple[CatalogModel, ...]:
    """All models of the catalog."""
    return whole_catalog().models


def source_of(number: int | None) -> str | None:
    """The text of a source."""
    return None if number is None else whole_catalog().texts[number]


def find_in_catalog(name: str) -> CatalogModel:
    """The model `name` means: its id, a repository that holds it, its name, or a part of these
    that only one has (`saiga2_13b`, `TheBloke/saiga_mistral_7b-GPTQ`, `qwen3-8b`).

    Raises ModelNotFound with the candidates.
    """
    found = candidates_in_catalog(name)
    if len(found) == 1:
        return found[0]
    shown = name[:100]
    if not found:
        near = nearest(name[:200], [model.name for model in catalog()])
        hint = f" Near: {', '.join(near)}." if near else ""
        raise ModelNotFound(f"The catalog has no model {shown!r}.{hint}")
    names = ", ".join(model.id for model in found[:MAX_SHOWN])
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    raise ModelNotFound(
        f"{shown!r} fits {len(found)} models of the catalog: {names}{more}. Give one of these."
    )


def candidates_in_catalog(name: str) -> list[CatalogModel]:
    """The models that `name` may mean, by the first rule that finds any: the id; a repository;
    the name as it is, then without what repacking adds; all its words, in order, then anywhere."""
    asked = key(name.strip()[:200])
    bare, words = plain_name(name), _words(plain_name(name))
    if not words:
        return []
    rules: tuple[Callable[[CatalogModel], bool], ...] = (
        lambda model: key(model.id) == asked,
        lambda model: asked in map(key, model.repos),
        lambda model: _words(plain_name(model.id)) == words,
        lambda model: bare in {plain_name(repo) for repo in model.repos},
        lambda model: _bare_words(model.id) == tuple(w for w in words if w not in FILLERS),
        lambda model: _words(plain_name(model.id))[: len(words)] == words,
        lambda model: _follows(words, _words(plain_name(model.id))),
        lambda model: set(words) <= set(_words(plain_name(model.id))),
    )
    for rule in rules:
        found = [model for model in catalog() if rule(model)]
        if found:
            return found
    return []


def plain_name(name: str) -> str:
    """A name without its owner and what repacking adds: `Saiga-13B-GPTQ` → `saiga-13b`."""
    plain = key(name.strip()[:200]).rstrip("/").rsplit("/", 1)[-1]
    while (shorter := REPACKED.sub("", plain)) not in ("", plain):
        plain = shorter
    return plain


def _bare_words(name: str) -> tuple[str, ...]:
    return tuple(word for word in _words(plain_name(name)) if word not in FILLERS)


def _words(name: str) -> tuple[str, ...]:
    """The parts of a name: letters or figures with a unit; `saiga2_13b` → saiga, 2, 13b."""
    return tuple(re.findall(r"\d+(?:\.\d+)*[bm]?(?![a-z])|[^\W\d_]+|\d+", name))


def _follows(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """`words` are among `others`, in the same order."""
    rest = iter(others)
    return all(word in rest for word in words)
