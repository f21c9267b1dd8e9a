"""Packed checkpoints: what transformers computes with the dequantised weights, and the engine with
okno's file.

Decoding quantised weights happens in a process of its own: torch takes a permission of the
processor that the engine must not find taken (okno/engines/amx.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM

from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.wants import Wants
from tests.convert.packed_model import GPTQ, N_VOCAB, Packer, write_pair
from tests.convert.packers import awq_gemm
from tests.reference.checkpoints import Floats, kl_divergence, mean_kl, reference_logits

N_TOKENS = 64
# Of the weights: measured 1e-11 where the repack is exact, 3e-5 where offsets get 16 bits.
MAX_KL = 1e-4
# What the engine's kernels add, which round activations to 8 bits whatever the type of the weights:
# measured 1.2e-4 to 3.4e-4 times the variance of the logits, in the mean over positions
# (docs/benchmarks/activation-rounding.md), and 4e-4 to 7e-4 here, where weights are 1.5 times as
# large as usual. So the bound goes by the logits' spread.
MAX_KL_BY_VARIANCE = 1e-3
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
CASES: dict[str, tuple[str, Packer, dict[str, object]]] = {
    "symmetric": ("llama", Packer(GPTQ), {}),
    "asymmetric": ("llama", Packer(GPTQ | {"sym": False}, symmetric=False), {}),
    "8 bits": ("llama", Packer(GPTQ | {"bits": 8}), {}),
    "act-order absorbed": ("llama", Packer(GPTQ, act_order=("down_proj",)), {}),
    "biases": ("qwen2", Packer(GPTQ), {}),
    "fused, act-order absorbed": (
        "phi3", Packer(GPTQ, act_order=("down_proj",)), {"num_key_value_heads": 4},
    ),
    "awq": ("llama", Packer(AWQ, awq_gemm, symmetric=False), {"num_key_value_heads": 4}),
}  # fmt: skip
CHILD = """
import sys
from pathlib import Path
import numpy as np
from okno.bench.raw import RawOptions, Row, open_raw
path, tokens, out = sys.argv[1], [int(t) for t in sys.argv[2].split()], sys.argv[3]
options = RawOptions(ctx=128, step_tokens=128, threads=1, kv_f32=True, flash_attention="off")
with open_raw(Path(path), options) as engine:
    engine.decode([Row(token, n) for n, token in enumerate(tokens)])
    np.save(out, np.array([engine.logits(n).copy() for n in range(len(tokens))]))
"""


def engine_logits(path: Path, tokens: list[int]) -> Floats:
    out = path.with_suffix(".npy")
    words = [sys.executable, "-c", CHILD, str(path), " ".join(map(str, tokens)), str(out)]
    subprocess.run(words, check=True, capture_output=True, timeout=100)
    found: Floats = np.load(out)
    return found


def in_floats(path: Path) -> Path:
    """The same GGUF file with every tensor in F32, dequantised by the gguf package."""
    reader = gguf.GGUFReader(path)
    target = path.with_name("floats.gguf")
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def loaded(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_dequantised_weights(tmp_path: Path, case: str) -> None:
    kind, packer, settings = CASES[case]
    packed, plain = write_pair(tmp_path, kind, packer, settings)
    made = convert(packed, tmp_path / "made.gguf", Wants(), silent).path
    tokens = [int(token) for token in np.random.default_rng(5).integers(1, N_VOCAB, N_TOKENS)]
    wanted = reference_logits(loaded(plain), tokens)
    assert wanted.std() > 0.5
    exact = engine_logits(in_floats(made), tokens)
    weights = kl_divergence(wanted, exact)
    products = mean_kl(exact, engine_logits(made, tokens)) / exact.var(axis=-1).mean()
    print(json.dumps({"case": case, "weights": weights, "products": float(products)}))  # noqa: T201
    assert weights <= MAX_KL
    assert 1e-6 < products <= MAX_KL_BY_VARIANCE
