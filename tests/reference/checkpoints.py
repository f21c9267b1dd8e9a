"""Small random checkpoints as `transformers` writes them, and what it computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3ForConditionalGeneration

N_VOCAB = 384
TEXT = "Окно шире, память дольше. A window is what one sees at once; 1 2 34 567. " * 40
# Qwen's rules (tokenizer.json of Qwen2).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
Floats = npt.NDArray[np.float32]


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of fewer tokens than the models have embeddings."""
    from tokenizers import Regex

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", '
        '"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}'
    )


def make(
    folder: Path,
    kind: str,
    settings: dict[str, Any],
    dtype: str = "float32",
    shard: str = "5GB",
    rounded_to: str = "float32",
) -> Any:
    """Write a checkpoint of `kind` (a model_type) and give what transformers loads of it, in
    float32.

    Every weight is random, norms and biases too, and large enough for logits that differ: what is
    mixed up shows.
    """
    torch.manual_seed(7)
    config = AutoConfig.for_model(kind, vocab_size=N_VOCAB, **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model, is_gemma=kind.startswith("gemma"))
    folder.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, rounded_to)).to(torch.float32)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    write_tokenizer(folder)
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return loaded.eval()


def make_with_images(folder: Path, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    """A Gemma 3 that also sees, of which the language part is taken."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    randomise(model, is_gemma=True)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def randomise(model: Any, *, is_gemma: bool) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn_like(value)
            if "norm" in name:
                value.copy_(0.3 * noise + (0.0 if is_gemma else 1.0))
            elif value.ndim == 1:
                value.copy_(0.5 * noise)
            else:
                value.copy_(noise * value.shape[-1] ** -0.5 * 1.5)


def reference_logits(model: Any, tokens: list[int]) -> Floats:
    """(len(tokens), N_VOCAB) by transformers, on the CPU in float32."""
    with torch.no_grad():
        found = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return found.numpy().astype(np.float32)


def kl_divergence(reference: Floats, found: Floats) -> float:
    """The largest over the positions, in nats."""
    return float(_kl_by_position(reference, found).max())


def mean_kl(reference: Floats, found: Floats) -> float:
    """The mean over the positions, in nats (what llama-perplexity calls KL divergence)."""
    return float(_kl_by_position(reference, found).mean())


def _kl_by_position(reference: Floats, found: Floats) -> npt.NDArray[np.float64]:
    p, q = _log_softmax(reference), _log_softmax(found)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
