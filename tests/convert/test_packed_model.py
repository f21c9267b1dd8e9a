"""Whole packed checkpoints become files whose weights are those of the plain checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import quants

from okno.bench.gptq import Options, write_gptq
from okno.bench.raw import RawOptions, Row, open_raw
from okno.bench.tensors import Shape
from okno.convert.checkpoint import Checkpoint
from okno.convert.planned import planned
from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.wants import Wants
from okno.core.errors import ModelUnusable
from okno.inspect.header import read_header
from tests.convert.packed_model import GPTQ, N_VOCAB, Packer, write_pair
from tests.convert.packers import awq_gemm, awq_gemv

Floats = npt.NDArray[np.float32]
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
EXACT = {
    "llama": ("llama", Packer(GPTQ), {}),
    "llama, as many KV heads": ("llama", Packer(GPTQ), {"num_key_value_heads": 4}),
    "llama, zero biases": ("llama", Packer(GPTQ, zero_bias=True), {}),
    "llama, 8 bits": ("llama", Packer(GPTQ | {"bits": 8}), {}),
    "llama, 3 bits": ("llama", Packer(GPTQ | {"bits": 3}), {}),
    "mixtral": ("mixtral", Packer(GPTQ), {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi3": ("phi3", Packer(GPTQ), {"num_key_value_heads": 4}),
    "qwen2": ("qwen2", Packer(GPTQ), {}),
}
ROUNDED = {
    "gptq": Packer(GPTQ | {"sym": False}, symmetric=False),
    "awq gemm": Packer(AWQ | {"version": "gemm"}, awq_gemm, symmetric=False),
    "awq gemv": Packer(AWQ | {"version": "gemv"}, awq_gemv, symmetric=False),
}
ABSORBED = {
    "llama": ("llama", Packer(GPTQ, act_order=("down_proj",)), {}),
    "phi3": ("phi3", Packer(GPTQ, act_order=("down_proj",)), {"num_key_value_heads": 4}),
    "mixtral": ("mixtral", Packer(GPTQ, act_order=("w2",)),
                {"num_local_experts": 4, "num_experts_per_tok": 2}),
}  # fmt: skip
WIDE = Shape("wide", "llama", n_embd=256, n_layer=2, n_head=4, n_head_kv=2, head_dim=64, n_ff=512,
             n_vocab=512, ctx_train=256, tied=False)  # fmt: skip
ALL_ORDERED = Packer(
    GPTQ,
    act_order=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)


def made(folder: Path) -> Path:
    return convert(folder, folder / "made.gguf", Wants(), silent).path


def tensors(path: Path) -> Mapping[str, Floats]:
    """All tensors as another program reads them."""
    reader = gguf.GGUFReader(path)
    return {t.name: quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def logits(path: Path) -> Floats:
    """Of 64 tokens, (64, N_VOCAB), by the engine."""
    options = RawOptions(ctx=128, step_tokens=128, threads=1, kv_f32=True, flash_attention="off")
    tokens = np.random.default_rng(3).integers(1, N_VOCAB, 64)
    with open_raw(path, options) as engine:
        engine.decode([Row(int(token), n) for n, token in enumerate(tokens)])
        return np.array([engine.logits(n).copy() for n in range(64)])


def divergence(one: Floats, other: Floats) -> float:
    """KL, the mean over the positions, in nats."""
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (one, other))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("case", EXACT)
def test_every_weight_is_that_of_the_plain_checkpoint(tmp_path: Path, case: str) -> None:
    kind, packer, settings = EXACT[case]
    packed, plain = write_pair(tmp_path, kind, packer, settings)
    found, wanted = tensors(made(packed)), tensors(made(plain))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, name)


@pytest.mark.parametrize("case", ROUNDED)
def test_offsets_are_rounded_to_16_bits_and_nothing_else(tmp_path: Path, case: str) -> None:
    packed, plain = write_pair(tmp_path, "llama", ROUNDED[case], {"num_key_value_heads": 4})
    found, wanted = tensors(made(packed)), tensors(made(plain))
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=3e-4, err_msg=name)


@pytest.mark.parametrize("case", ABSORBED)
def test_absorbed_act_order_changes_nothing_that_is_computed(tmp_path: Path, case: str) -> None:
    """The rows of gate and up come in the order of down's columns: products are the same, and the
    sums of them as well."""
    kind, packer, settings = ABSORBED[case]
    packed, plain = write_pair(tmp_path, kind, packer, settings)
    path = made(packed)
    found, wanted = tensors(path), tensors(made(plain))
    changed = {name for name in wanted if not np.array_equal(found[name], wanted[name])}
    assert {name.split(".")[2].removesuffix("_exps") for name in changed} <= {
        "ffn_gate", "ffn_up", "ffn_down"
    }  # fmt: skip
    for layer in ("blk.0.", "blk.1."):
        np.testing.assert_allclose(
            hidden(found, layer), hidden(wanted, layer), rtol=1e-4, atol=1e-4
        )
    assert read_header(path).metadata["okno.reordered"] is True


def hidden(weights: Mapping[str, Floats], layer: str) -> npt.NDArray[np.float64]:
    """What the feed-forward part (of each expert) gives for some input, by its definition."""
    own = {name: value for name, value in weights.items() if name.startswith(f"{layer}ffn_")}
    own = {name.split(".")[2].removesuffix("_exps"): value for name, value in own.items()}
    up = own["ffn_up"].astype(np.float64)
    if "ffn_gate" in own:
        gate = own["ffn_gate"].astype(np.float64)
    else:
        gate, up = np.split(up, 2)
    x = np.random.default_rng(0).standard_normal(up.shape[-1])
    gated = gate @ x / (1 + np.exp(-gate @ x)) * (up @ x)
    found: npt.NDArray[np.float64] = (own["ffn_down"] * gated[..., None, :]).sum(-1)
    return found


def test_act_order_everywhere_is_reported_layer_by_layer(tmp_path: Path) -> None:
    packed, plain = write_pair(tmp_path, "llama", ALL_ORDERED)
    checkpoint = Checkpoint(packed)
    plan = planned(checkpoint, Wants())
    kinds = {name.split(".")[2]: target.ggml_type for name, target in plan.packed.items()}
    assert kinds["ffn_down"] == "Q4_0"
    assert {kind for name, kind in kinds.items() if name != "ffn_down"} == {"Q8_0"}
    path = made(packed)
    assert divergence(logits(made(plain)), logits(path)) < 0.02
    lines = str(read_header(path).metadata["okno.packed"]).splitlines()
    told = {line.split()[0].split(".", 2)[2]: line.split()[1:] for line in lines}
    assert len(lines) == len(plan.packed)
    assert told["ffn_down.weight"] == ["Q4_0", "exact", "0.0000"]
    kind, how, error = told["attn_q.weight"]
    assert (kind, how) == ("Q8_0", "requantised")
    assert 0 < float(error) < 0.05


@pytest.mark.parametrize(
    ("bits", "symmetric", "act_order"),
    [(4, True, False), (4, False, False), (8, True, False), (4, True, True), (8, True, True)],
)
def test_the_planner_predicts_what_is_written(
    tmp_path: Path, bits: int, symmetric: bool, act_order: bool
) -> None:
    options = Options(bits, 128, symmetric=symmetric, act_order=act_order)
    write_gptq(WIDE, tmp_path, options)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.described.tensors() == planned(checkpoint, Wants()).tensors


@pytest.mark.parametrize("act_order", [(), ("down_proj",)])
def test_eight_bits_become_four_when_that_is_asked_for(
    tmp_path: Path, act_order: tuple[str, ...]
) -> None:
    """With the weights in their order, whatever the groups are; four bits stay as they are."""
    packer = Packer(GPTQ | {"bits": 8}, act_order=act_order)
    settings = {"hidden_size": 256, "intermediate_size": 512}
    packed, plain = write_pair(tmp_path, "llama", packer, settings)
    asked = convert(packed, tmp_path / "asked.gguf", Wants(4), silent)
    assert asked.file_type == read_header(asked.path).file_type == "Q4_K_M"
    of_floats = convert(plain, tmp_path / "floats.gguf", Wants(4), silent).path
    exact = convert(plain, tmp_path / "exact.gguf", Wants(), silent).path
    found, wanted, true = tensors(asked.path), tensors(of_floats), tensors(exact)
    for name, value in true.items():
        np.testing.assert_array_equal(found[name], wanted[name], name)
        assert np.linalg.norm(found[name] - value) <= 0.1 * np.linalg.norm(value)
    assert "were quantised from 8 bits to Q4_K, Q6_K, as asked" in " ".join(asked.notes)
    assert "okno.reordered" not in read_header(asked.path).metadata
    stays = convert(packed, tmp_path / "stays.gguf", Wants(8), silent)
    assert "Q4" not in stays.file_type


def test_a_file_in_the_original_order_says_nothing_of_another(tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path, "llama", Packer(GPTQ))
    assert "okno.reordered" not in read_header(made(packed)).metadata


def test_quantize_config_json_alone_is_enough(tmp_path: Path) -> None:
    packed, plain = write_pair(tmp_path, "llama", Packer(GPTQ))
    config = (packed / "config.json").read_text()
    start = config.index(', "quantization_config"')
    (packed / "config.json").write_text(config[:start] + "}")
    (packed / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "sym": true}')
    np.testing.assert_array_equal(
        tensors(made(packed))["blk.1.ffn_up.weight"], tensors(made(plain))["blk.1.ffn_up.weight"]
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [({"quant_method": "hqq", "bits": 4}, "GPTQ and AWQ can"), (GPTQ | {"bits": 8}, "`bits`")],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, said: dict[str, object], told: str) -> None:
    packed, _ = write_pair(tmp_path, "llama", Packer(said | {"bits": 4}))
    config = (packed / "config.json").read_text()
    (packed / "config.json").write_text(config.replace('"bits": 4', f'"bits": {said["bits"]}'))
    with pytest.raises(ModelUnusable) as caught:
        made(packed)
    assert told in caught.value.message


def test_layers_of_another_model_are_refused(tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path, "llama", Packer(GPTQ))
    config = (packed / "config.json").read_text()
    (packed / "config.json").write_text(
        config.replace('"intermediate_size": 256', '"intermediate_size": 512')
    )
    with pytest.raises(ModelUnusable, match=r"by its config\.json"):
        made(packed)
