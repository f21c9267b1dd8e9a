"""Conversion speed: okno against llama.cpp's convert_hf_to_gguf.py, one checkpoint, one run.

    python benchmarks/convert.py --folder DIR [--size-gb 1.5] [--peer .../convert_hf_to_gguf.py]
        [--peer-python PYTHON] [--rounds 3]

Writes a Llama-shaped checkpoint of random BF16 weights into DIR (reused when it is there),
converts it in fresh processes by turns, and prints MB of source per second (10^6 bytes; best of the
rounds) and peak memory. The peer needs torch and transformers, which PYTHON may have. The page
cache is warm for both: the first round of each is dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
SHARD_BYTES = 1_000_000_000
WIDTH, FF, HEADS, KV_HEADS, VOCAB = 2048, 5632, 16, 8, 32_000
OKNO = """
import sys
from pathlib import Path
from okno.convert.progress import silent
from okno.convert.ready import convert
from okno.convert.wants import Wants
convert(Path(sys.argv[1]), Path(sys.argv[2]), Wants(int(sys.argv[3]) or None), silent)
"""


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    peak_bytes: int


def shapes(n_layer: int) -> dict[str, tuple[int, ...]]:
    found = {
        "model.embed_tokens.weight": (VOCAB, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCAB, WIDTH),
    }
    kv = WIDTH // HEADS * KV_HEADS
    for il in range(n_layer):
        block = f"model.layers.{il}"
        found |= {
            f"{block}.input_layernorm.weight": (WIDTH,),
            f"{block}.post_attention_layernorm.weight": (WIDTH,),
            f"{block}.self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{block}.self_attn.k_proj.weight": (kv, WIDTH),
            f"{block}.self_attn.v_proj.weight": (kv, WIDTH),
            f"{block}.self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{block}.mlp.gate_proj.weight": (FF, WIDTH),
            f"{block}.mlp.up_proj.weight": (FF, WIDTH),
            f"{block}.mlp.down_proj.weight": (WIDTH, FF),
        }
    return found


def make_checkpoint(folder: Path, size_bytes: int) -> None:
    """Shards of BF16 with random weights, a configuration, and a small SentencePiece tokenizer."""
    per_block = sum(np.prod(s) for n, s in shapes(1).items() if ".layers." in n) * 2
    n_layer = max(1, int((size_bytes - 2 * VOCAB * WIDTH * 2) / per_block))
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes(n_layer).items():
        n_bytes = 2 * int(np.prod(shape))
        if filled + n_bytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += n_bytes
    index = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, shard, number)
        index |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": FF, "num_hidden_layers": n_layer, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)


def write_shard(path: Path, shard: dict[str, tuple[int, ...]], seed: int) -> None:
    entries, end = {}, 0
    for name, shape in shard.items():
        size = 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    random = np.random.Generator(np.random.SFC64(seed))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for shape in shard.values():
            values = random.standard_normal(int(np.prod(shape)), dtype=np.float32) * np.float32(
                0.02
            )
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def write_tokenizer(folder: Path) -> None:
    import sentencepiece

    text = (ROOT / "okno" / "data" / "depth_ru_en.txt").read_text().splitlines()
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=file, vocab_size=2000, model_type="bpe",
            byte_fallback=True, character_coverage=0.9999, minloglevel=2,
            normalization_rule_name="identity", remove_extra_whitespaces=False,
        )  # fmt: skip
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True})
    )


def measured(command: list[str], out: Path, env: dict[str, str]) -> Run:
    """Wall time and peak memory (ru_maxrss of that process alone) of a conversion to `out`."""
    out.unlink(missing_ok=True)
    began = time.monotonic()
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read() if child.stderr else b""
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    if status != 0 or not out.exists():
        sys.exit(f"{command} failed:\n{errors.decode()[-3000:]}")
    return Run(seconds, usage.ru_maxrss * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size-gb", type=float, default=1.5)
    parser.add_argument("--peer", type=Path, help="convert_hf_to_gguf.py")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bits", default="0,8", help="okno's conversions: 0 as stored, 8, 4")
    args = parser.parse_args()
    folder, out = args.folder, args.folder.parent / "converted.gguf"
    if not (folder / "config.json").exists():
        make_checkpoint(folder, int(args.size_gb * 1e9))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    names = {"0": "as stored", "8": "to Q8_0", "4": "to Q4_K_M"}
    commands = {
        f"okno, {names[bits]}": ([sys.executable, "-c", OKNO, str(folder), str(out), bits], env)
        for bits in args.bits.split(",")
    }
    if args.peer:
        peer = [args.peer_python, str(args.peer), str(folder), "--outfile", str(out), "--outtype"]
        own = env | {"PYTHONPATH": str(args.peer.parent / "gguf-py")}
        commands["llama.cpp's, as stored"] = ([*peer, "bf16"], own)
        commands["llama.cpp's, to Q8_0"] = ([*peer, "q8_0"], own)
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(args.rounds + 1):
        for name, (command, environment) in commands.items():
            runs[name].append(measured(command, out, environment))
    out.unlink(missing_ok=True)
    print(f"{size / 1e9:.2f} GB of BF16, {args.rounds} rounds after one that warms up\n")
    print("| converter | s (best) | MB/s of source | peak memory |\n|---|---:|---:|---:|")
    for name, found in runs.items():
        best = min(run.seconds for run in found[1:])
        peak = max(run.peak_bytes for run in found[1:])
        print(f"| {name} | {best:.1f} | {size / 1e6 / best:,.0f} | {peak / 2**20:,.0f} MiB |")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
