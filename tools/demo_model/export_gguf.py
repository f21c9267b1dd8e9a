"""Write a checkpoint as a GGUF file with tokenizer, chat template and metadata."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import gguf
import model as m
import numpy as np
import tokenizer as t

DESCRIPTION = (
    "Tiny bilingual (Russian, English) demo model of okno, trained on generated text: "
    "recall of facts from the chat, lookup, copying, editing, sorting, small sums."
)
NAMES = {
    "attn_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def _metadata(writer: gguf.GGUFWriter, cfg: m.Config) -> None:
    """The general.* and llama.* keys."""
    writer.add_name("okno demo")
    writer.add_basename("okno-demo")
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_languages(["ru", "en"])
    writer.add_context_length(cfg.context)
    writer.add_embedding_length(cfg.width)
    writer.add_block_count(cfg.layers)
    writer.add_feed_forward_length(cfg.ffn)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.heads)
    writer.add_key_length(cfg.head_dim)
    writer.add_value_length(cfg.head_dim)
    writer.add_rope_dimension_count(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_base)
    writer.add_layer_norm_rms_eps(cfg.eps)
    writer.add_vocab_size(cfg.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    """The tokenizer.* keys; the chat template itself writes the single <|bos|>."""
    data = json.loads(path.read_text(encoding="utf-8"))["model"]
    tokens = sorted(data["vocab"], key=data["vocab"].__getitem__)
    merges = [x if isinstance(x, str) else " ".join(x) for x in data["merges"]]
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    ids = data["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if x in t.SPECIAL else normal for x in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids["<|bos|>"])
    writer.add_eos_token_id(ids["<|end|>"])
    writer.add_eot_token_id(ids["<|end|>"])
    writer.add_pad_token_id(ids["<|pad|>"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(t.TEMPLATE)


def export(net: m.Llama, tokenizer: Path, out: Path) -> None:
    """Write `net` to `out` (matrices F16, norms F32), replacing an older file in one step."""
    temp = out.with_suffix(".tmp")
    writer = gguf.GGUFWriter(str(temp), "llama")
    _metadata(writer, net.cfg)
    _tokenizer(writer, tokenizer)

    def add(name: str, tensor: object) -> None:
        array = tensor.detach().float().numpy()  # type: ignore[attr-defined]
        writer.add_tensor(name, array.astype(np.float16 if array.ndim == 2 else np.float32))

    add("token_embd.weight", net.embed.weight)
    add("output_norm.weight", net.norm.weight)
    for i, block in enumerate(net.blocks):
        for ours, theirs in NAMES.items():
            add(f"blk.{i}.{theirs}.weight", getattr(block, ours).weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temp, out)


def main() -> None:
    """Export a checkpoint, or (with --untrained) a freshly initialised model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--untrained", action="store_true")
    args = parser.parse_args()
    if args.untrained:
        net = m.Llama(m.Config())
        m.init_weights(net, seed=1)
    else:
        net = m.load(args.checkpoint)
    export(net, args.tokenizer, args.out)
    count = sum(p.numel() for p in net.parameters())
    print(f"{args.out}: {count:,} parameters, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
