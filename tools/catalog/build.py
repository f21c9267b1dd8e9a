"""Make okno/data/catalog.json from the collected facts (a YAML file of models and sources).

    python tools/catalog/build.py FACTS.yaml

Keeps every fact that okno uses and its source; drops what is null. Texts that many models share
(sources) are stored once and referred to by number.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

OUT = Path(__file__).parents[2] / "okno" / "data" / "catalog.json"
KEPT = (
    "id", "family", "kind", "base_model", "license", "release", "total_params", "active_params",
    "gguf_repos", "notes",
)  # fmt: skip
SHAPE = {
    "gguf_arch": "architecture", "n_layers": "n_layer", "hidden_size": "n_embd",
    "intermediate_size": "n_ff", "n_heads": "n_head", "n_kv_heads": "n_head_kv",
    "head_dim": "head_dim", "vocab_size": "n_vocab", "max_context": "ctx_train",
    "rope_theta": "rope_base", "tied_embeddings": "tied",
}  # fmt: skip
MOE = {
    "n_experts": "n_expert", "experts_per_token": "n_used", "expert_ffn": "n_ff",
    "shared_ffn": "n_ff_shared", "shared_experts": "n_shared", "first_dense_layers": "n_dense",
    "moe_every": "every",
}  # fmt: skip
MLA = {
    "kv_lora_rank": "kv_rank", "q_lora_rank": "q_rank", "qk_nope_head_dim": "nope_dim",
    "qk_rope_head_dim": "rope_dim", "v_head_dim": "v_dim",
}  # fmt: skip
WINDOW = {
    "window": "tokens", "full_layers": "n_full", "kv_shared_layers": "n_shared",
    "global_head_dim": "global_head_dim", "global_kv_heads": "global_heads_kv",
    "k_eq_v_on_full_layers": "k_is_v",
}  # fmt: skip
RECURRENT = {
    "full_attention_every": "attention_every", "attention_layer_idx": "attention_layers",
    "attention_layers": "n_attention", "pattern": "pattern", "mamba_heads": "n_head",
    "linear_value_heads": "n_head", "linear_heads": "n_head", "mamba_head_dim": "head_dim",
    "linear_head_dim": "head_dim", "state_size": "state", "groups": "n_group",
    "linear_key_heads": "n_group", "conv_kernel": "kernel", "conv_l_cache": "short_cache",
}  # fmt: skip
# Vocabularies that were not found, taken from the model it was made of (marked as assumed).
ASSUMED_VOCAB = {
    "IlyaGusev/saiga_mistral_7b": 32_000,
    "t-tech/T-lite-it-1.0": 152_064,
    "t-tech/T-pro-it-1.0": 152_064,
    "RefalMachine/RuadaptQwen3-4B-Instruct": 151_936,
    "RefalMachine/RuadaptQwen3-32B-Instruct": 151_936,
}


class Texts:
    """Texts by number, each stored once."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def number(self, text: str | None) -> int | None:
        return None if text is None else self.known.setdefault(text, len(self.known))


def renamed(found: dict[str, Any] | None, names: dict[str, str]) -> dict[str, Any] | None:
    if not found:
        return None
    return {names[key]: value for key, value in found.items() if key in names}


def recurrent(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Recurrent layers; marked when it is not known which they are."""
    kept = renamed(found, RECURRENT)
    return {"is_unknown": True} if kept == {} else kept


def model(row: dict[str, Any], texts: Texts) -> dict[str, Any]:
    """A row of the facts as okno reads it."""
    out = {key: row[key] for key in KEPT}
    out["languages"] = row["languages"]["declared"]
    out["russian"] = row["languages"]["russian"]
    shape = {new: row[old] for old, new in SHAPE.items()}
    shape |= {
        "moe": renamed(row["moe"], MOE),
        "mla": renamed(row["mla"], MLA),
        "window": renamed(row["sliding_window"], WINDOW),
        "recurrent": recurrent(row["recurrent"]),
        "has_vision": row["vision_in_checkpoint"] or None,
    }
    if shape["n_vocab"] is None and row["id"] in ASSUMED_VOCAB:
        shape |= {"n_vocab": ASSUMED_VOCAB[row["id"]], "assumed": ["n_vocab"]}
    out["shape"] = shape
    out["files"] = [published(file, texts) for file in row["gguf_files"] or ()]
    out["gptq"] = [checkpoint(found, texts) for found in row["gptq"] or ()]
    out["quality"] = [measured(found, texts) for found in row["quality"] or ()]
    out["sources"] = {key: texts.number(text) for key, text in row["sources"].items()}
    return without_nulls(out)


def published(file: dict[str, Any], texts: Texts) -> dict[str, Any]:
    n_bytes, approx = file.get("bytes"), file.get("approx_gib")
    return {
        "repo": file.get("repo"), "file": file.get("file"), "quant": file["quant"],
        "n_bytes": n_bytes or round(approx * 2**30), "is_exact": n_bytes is not None,
        "source": texts.number(file.get("source")),
    }  # fmt: skip


def checkpoint(found: dict[str, Any], texts: Texts) -> dict[str, Any]:
    kept = {key: found[key] for key in ("repo", "bits", "group_size")}
    return kept | {"source": texts.number(found["source"])}


def measured(found: dict[str, Any], texts: Texts) -> dict[str, Any]:
    kept = {key: found.get(key) for key in ("metric", "value", "rank")}
    return kept | {"source": texts.number(found.get("source"))}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: without_nulls(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, [], {})}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("facts", type=Path)
    facts = YAML(typ="safe").load(parser.parse_args().facts)
    texts = Texts()
    models = [model(row, texts) for row in facts["models"]]
    made = {
        "generated": facts["meta"]["generated"], "origins": facts["meta"]["sources"],
        "texts": list(texts.known), "models": models,
    }  # fmt: skip
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in models)
    head = json.dumps(made | {"models": []}, ensure_ascii=False, separators=(",", ":"))
    OUT.write_text(head.removesuffix("[]}") + "[\n" + lines + "\n]}\n", encoding="utf-8")
    sys.stdout.write(f"{OUT}: {len(models)} models, {OUT.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
