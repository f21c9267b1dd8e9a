"""adapter_config.json of PEFT: how strongly each layer is adapted, and what cannot be carried over.

Fields: peft, src/peft/tuners/lora/config.py (LoraConfig).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from okno.core.errors import ModelUnusable

PLAIN_PATTERN = re.compile(r"\^?[\w.\\]+\$?")  # names of modules, where `.` is a dot
MERGE = "Merge the adapter into its model with PEFT (merge_and_unload) and convert the result"
# What the engine has no place for: the field, the values that ask for nothing, and what it is.
REFUSED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("use_dora", (False,), "a DoRA: its magnitudes change the weights it is added to"),
    ("bias", ("none",), "trained with biases, which an adapter of the engine does not hold"),
    ("lora_bias", (False,), "trained with biases, which an adapter of the engine does not hold"),
    ("modules_to_save", ([],), "more than low-rank factors: it replaces whole layers"),
    ("trainable_token_indices", ([], {}), "more than low-rank factors: it replaces embeddings"),
    ("layer_replication", ([],), "for a model with repeated layers"),
    ("target_parameters", ([],), "for parameters that are no layers of their own (experts)"),
    ("alora_invocation_tokens", ([],), "an activated LoRA: applied after certain tokens only"),
    ("use_qalora", (False,), "a QALoRA: its factors work on groups of inputs"),
    ("use_bdlora", (), "a block-diagonal LoRA"),
    ("arrow_config", (), "a router over several adapters (Arrow)"),
    ("kasa_config", (), "a KaSA adapter: it has more than two factors"),
    ("monteclora_config", (), "a MonteCLoRA adapter: its factors are distributions"),
    ("megatron_config", (), "for a model split by Megatron"),
)  # fmt: skip
# Ways to begin that leave the model as it was. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take
# something off its weights, so that the adapter is right for that changed model only.
UNCHANGED_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """alpha, alpha_pattern: of what is added, alpha / rank; by_root: alpha / sqrt(rank) (rsLoRA).
    base: the model it was trained on, as its author calls it."""

    alpha: float
    alpha_pattern: Mapping[str, float]
    by_root: bool
    base: str

    def scaling(self, module: str, rank: int) -> float:
        """By what B A is multiplied (LoraLayer.update_layer)."""
        alpha = next(
            (alpha for key, alpha in self.alpha_pattern.items() if _matches(key, module)),
            self.alpha,
        )
        return alpha / math.sqrt(rank) if self.by_root else alpha / rank


def lora_config(values: Mapping[str, object], where: str) -> LoraConfig:
    """What `values` (of adapter_config.json) say. Raises ModelUnusable for what is no LoRA, or one
    that the engine cannot apply as it was trained."""
    if values.get("peft_type") != "LORA":
        raise ModelUnusable(
            f"{where} is an adapter of the kind {str(values.get('peft_type'))[:40]!r}; only LoRA "
            f"can be applied. {MERGE}."
        )
    for name, nothing, what in REFUSED:
        found = values.get(name)
        if found is not None and not any(_same(found, value) for value in nothing):
            raise ModelUnusable(f"{where} is {what} ({name}). {MERGE}.")
    begun = values.get("init_lora_weights", True)
    if not any(_same(begun, value) for value in UNCHANGED_BASE):
        raise ModelUnusable(
            f"{where} was begun by {str(begun)[:40]}, which changes the model's weights too, so it "
            "fits that changed model only. Convert it to a plain LoRA with PEFT "
            "(save_pretrained with path_initial_model_for_weight_conversion)."
        )
    return LoraConfig(
        _number(values.get("lora_alpha", 8), "lora_alpha", where),
        _patterns(values.get("alpha_pattern"), where),
        values.get("use_rslora") is True,
        str(values.get("base_model_name_or_path") or "")[:256],
    )


def _patterns(found: object, where: str) -> Mapping[str, float]:
    if not found:
        return {}
    if not isinstance(found, dict):
        raise ModelUnusable(f"{where} has an alpha_pattern that is no mapping. Save it again.")
    for key in found:
        if not isinstance(key, str) or len(key) > 256 or not PLAIN_PATTERN.fullmatch(key):
            raise ModelUnusable(
                f"{where} gives an alpha to layers by the expression {str(key)[:80]!r}; only names "
                f"of layers are understood. {MERGE}."
            )
    return {key: _number(value, f"alpha_pattern {key}", where) for key, value in found.items()}


def _matches(key: str, module: str) -> bool:
    """As get_pattern_key of peft/utils/other.py: the whole name, or its end after a dot."""
    name = key.removeprefix("^").removesuffix("$").replace("\\", "")
    return module == name or (not key.startswith("^") and module.endswith(f".{name}"))


def _number(found: object, name: str, where: str) -> float:
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    if not number or not math.isfinite(float(str(found))):
        raise ModelUnusable(f"{where} has {name} = {str(found)[:40]!r}, which is no number.")
    return float(str(found))


def _same(found: object, value: object) -> bool:
    """Equal, where 1 is not true."""
    return type(found) is type(value) and found == value
