"""Make a GGUF with random weights from a shape: a real engine file of any size, no model hub.

    python -m okno.bench.shapes llama-1b --type Q4_0 --out /tmp/llama-1b-Q4_0.gguf

Needs the `gguf` package (a development dependency). The text such a model writes is noise, but
its cost per token is that of a trained model of the same shape and type.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from okno.bench.quantise import FILE_TYPES, FileType, random_weights, storage_type
from okno.bench.quantise import stored_bytes as tensor_bytes
from okno.bench.shape_presets import MEMORY, SPEED, TINY
from okno.bench.tensors import Shape, Tensor, mamba_heads, tensors
from okno.bench.vocab import Vocab, byte_bpe, wordpiece

if TYPE_CHECKING:
    import gguf

ALIGNMENT = 32  # of tensors in a GGUF file, unless the header says otherwise
PRESETS: dict[str, Shape] = {shape.name: shape for shape in (*SPEED, *TINY, *MEMORY)}


def write_gguf(shape: Shape, path: Path, file_type: FileType = "F16", seed: int = 0) -> int:
    """Write `shape` with random weights to `path` and return the file's bytes.

    The same shape, type and seed give the same file. Memory stays near the size of the largest
    tensor; the file appears under its name only when it is whole.
    """
    part = path.with_name(path.name + ".part")
    writer = _header(shape, file_type)
    plan = [(t, storage_type(shape, t, file_type)) for t in tensors(shape)]
    try:
        _announce(writer, plan)
        _write(writer, part, plan, seed)
        os.replace(part, path)
    finally:
        writer.close()
        part.unlink(missing_ok=True)
    return path.stat().st_size


def write_header(shape: Shape, path: Path, file_type: FileType = "F16") -> int:
    """Write only the header of `shape`: a sparse file as long as the whole model, enough for
    planning and a dry run. Returns its length in bytes."""
    writer = _header(shape, file_type)
    plan = [(t, storage_type(shape, t, file_type)) for t in tensors(shape)]
    try:
        _announce(writer, plan)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.flush()
    finally:
        writer.close()
    stored = sum(_aligned(tensor_bytes(t, ggml_type)) for t, ggml_type in plan)
    size_bytes = _aligned(path.stat().st_size) + stored
    os.truncate(path, size_bytes)
    return size_bytes


def _aligned(n_bytes: int) -> int:
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def _header(shape: Shape, file_type: FileType) -> gguf.GGUFWriter:
    """A writer that holds all metadata of the model."""
    import gguf

    writer = gguf.GGUFWriter(None, shape.architecture)
    names = {"F32": "ALL_F32", "MXFP4": "MOSTLY_MXFP4_MOE"}
    number = gguf.LlamaFileType[names.get(file_type, f"MOSTLY_{file_type}")]
    writer.add_name(f"{shape.name} random")
    writer.add_file_type(number)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _sizes(writer, shape)
    if shape.state_size or shape.architecture == "lfm2":
        _recurrent(writer, shape)
    if shape.n_head:
        _heads(writer, shape)
    if shape.n_expert:
        _experts(writer, shape)
    _tokenizer(writer, _vocab(shape))
    return writer


def _sizes(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer + shape.mtp_layers)
    if shape.mtp_layers:
        writer.add_nextn_predict_layers(shape.mtp_layers)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_vocab_size(shape.n_vocab)
    if shape.architecture != "bert":
        writer.add_layer_norm_rms_eps(1e-5)


def _heads(writer: gguf.GGUFWriter, shape: Shape) -> None:
    import gguf

    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(_kv_heads(shape))
    if shape.kv_lora:
        _latent(writer, shape)
    else:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    if shape.sliding_window:
        writer.add_sliding_window(shape.sliding_window)
    if shape.architecture == "bert":
        writer.add_layer_norm_eps(1e-12)
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType[shape.pooling.upper()])
    else:
        writer.add_rope_dimension_count(shape.rope_dim or shape.head_dim)
        writer.add_rope_freq_base(shape.rope_base)


def _kv_heads(shape: Shape) -> int | list[int]:
    """Per layer in a hybrid: a layer without them is recurrent."""
    if not shape.attention_layers:
        return 1 if shape.kv_lora else shape.n_head_kv
    return [shape.n_head_kv * (i in shape.attention_layers) for i in range(shape.n_layer)]


def _latent(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Latent attention: what the cache keeps, and what a head sees."""
    writer.add_key_length(shape.kv_lora + shape.rope_dim)
    writer.add_value_length(shape.kv_lora)
    writer.add_key_length_mla(shape.head_dim)
    writer.add_value_length_mla(shape.v_head_dim)
    writer.add_kv_lora_rank(shape.kv_lora)
    if shape.q_lora:
        writer.add_q_lora_rank(shape.q_lora)


def _experts(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_expert_count(shape.n_expert)
    writer.add_expert_used_count(shape.n_expert_used)
    writer.add_expert_feed_forward_length(shape.n_ff_expert)
    if shape.shared_experts:
        writer.add_leading_dense_block_count(shape.dense_layers)
        writer.add_expert_shared_count(shape.shared_experts)


def _recurrent(writer: gguf.GGUFWriter, shape: Shape) -> None:
    if shape.architecture == "lfm2":
        writer.add_shortconv_l_cache(shape.conv_kernel)
        return
    if not shape.n_head:
        writer.add_head_count(0)
    writer.add_ssm_conv_kernel(shape.conv_kernel)
    writer.add_ssm_inner_size(shape.n_inner)
    writer.add_ssm_state_size(shape.state_size)
    writer.add_ssm_time_step_rank(mamba_heads(shape))
    writer.add_ssm_group_count(1)


def _vocab(shape: Shape) -> Vocab:
    return wordpiece(shape.n_vocab) if shape.architecture == "bert" else byte_bpe(shape.n_vocab)


def _tokenizer(writer: gguf.GGUFWriter, vocab: Vocab) -> None:
    import gguf

    kinds = [gguf.TokenType.CONTROL if i in vocab.control else gguf.TokenType.NORMAL
             for i in range(len(vocab.tokens))]  # fmt: skip
    writer.add_tokenizer_model(vocab.model)
    writer.add_tokenizer_pre(vocab.pre)
    writer.add_token_list(list(vocab.tokens))
    writer.add_token_types(kinds)
    if vocab.merges:
        writer.add_token_merges(list(vocab.merges))
    for role, token in vocab.special.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token)
    if vocab.model == "bert":
        writer.add_token_type_count(2)
    else:
        writer.add_add_bos_token(False)
    if vocab.chat_template:
        writer.add_chat_template(vocab.chat_template)


def _announce(writer: gguf.GGUFWriter, plan: list[tuple[Tensor, str]]) -> None:
    import gguf
    import numpy as np

    for tensor, ggml_type in plan:
        writer.add_tensor_info(
            tensor.name, tensor.dimensions, np.dtype(np.float32),
            tensor_bytes(tensor, ggml_type), gguf.GGMLQuantizationType[ggml_type],
        )  # fmt: skip


def _write(writer: gguf.GGUFWriter, path: Path, plan: list[tuple[Tensor, str]], seed: int) -> None:
    """One tensor at a time: made, written, dropped."""
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, ggml_type in plan:
        writer.write_tensor_data(random_weights(tensor, ggml_type, seed))
    writer.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m okno.bench.shapes",
        description="Write a GGUF model with random weights.",
    )
    parser.add_argument("shape", choices=sorted(PRESETS))
    parser.add_argument("--type", choices=FILE_TYPES, default="F16", help="storage of the weights")
    parser.add_argument("--out", type=Path, required=True, help="path of the file to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line: writes the file and prints its name, weights and size."""
    options = _parser().parse_args(arguments)
    shape = PRESETS[options.shape]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    size_bytes = write_gguf(shape, options.out, options.type, options.seed)
    sys.stdout.write(
        f"{options.out}: {shape.name} {options.type}, {shape.n_params() / 1e6:,.1f} M weights, "
        f"{size_bytes / 1e6:,.1f} MB\n"
    )


if __name__ == "__main__":
    main()
