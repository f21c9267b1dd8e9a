"""What the engine's products with 8-bit activations change, where the weights are the same.

    python benchmarks/activation_rounding.py FOLDER --out docs/benchmarks/activation-rounding.md

Each model is written several times with the very same weights: as Q4_0, as the same numbers in
Q4_1 and Q8_0, and as floats of 32 and 16 bits. What the logits differ by then comes from the
kernels alone: llama.cpp rounds the other factor of a product with a quantised matrix to 8 bits in
blocks of 32 (ggml-cpu.c, type_traits_cpu, vec_dot_type). As in a GPTQ checkpoint the matrices of
the layers are quantised, embedding and output are not; the logits of a random model are linear in
its output, so their spread is chosen after the run. The demo model that ships is trained, and is
read on the text that ships.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from okno.bench.raw import RawOptions, Row, open_raw
from okno.bench.report import environment, publish, table
from okno.bench.shapes import write_gguf
from okno.bench.tensors import Shape
from okno.convert.quantise import dequantise_rows, quantise_rows

Floats = npt.NDArray[np.float32]
N_TOKENS = 256
KINDS = ("Q4_0", "Q4_1", "Q8_0", "F16")
SPREADS = (0.5, 1.0, 2.0, 3.0, 5.0)
RANDOM = ((128, 2), (128, 8), (512, 2), (512, 8), (512, 24), (1024, 8))
HEADER = ("model", "weights as", "logits, std", "entropy, nats", "KL, mean", "KL, largest",
          "KL / variance", "same likeliest token")  # fmt: skip

READING = """\
What a GPTQ file loses in the engine, where its weights are carried over exactly. Every row compares
two files with the very same weights in the layers' matrices: F32 against the type that is named.

- Stored as floats the same numbers give the same logits: KL 1e-6 (F16, which rounds the numbers a
  little). So it is not the weights.
- Q4_0, Q4_1 and Q8_0 of the same numbers lose the same. So it is not the type either, but what all
  of them have in common: llama.cpp rounds the *other* factor of each product, the activations, to 8
  bits in blocks of 32. Not repacking the matrices, or computing token by token, changes nothing.
- The loss grows with the square of the spread of the logits and hardly with width and depth: 2 to
  3.4e-4 times their variance for random models, 1.2e-4 for the trained one. A KL of 1e-4 would need
  logits with a deviation of 0.5 to 0.9, an almost even distribution over the vocabulary, which no
  trained model has: the demo has 2.3.
- llama.cpp's own figures for Llama 3 8B (tools/perplexity/README.md, against BF16) are of the same
  size: mean KL 1.4e-3 for Q8_0, 5.5e-4 for F16.
- No way through the engine's CPU kernels gives exact products with quantised matrices: every
  quantised type has 8-bit activations (vec_dot_type: Q8_0, Q8_1 or Q8_K). Exact logits cost the
  memory of F16, 3.6 times that of Q4_0.
"""


@dataclass(frozen=True)
class Case:
    """A model in floats, and the tokens that it reads. spreads: the deviations its logits are
    scaled to (of Q4_0; of the others the middle one); empty: as they are."""

    name: str
    floats: Path
    tokens: Sequence[int]
    spreads: Sequence[float] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--small", action="store_true", help="the demo and the smallest only")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in cases(asked.folder, small=asked.small):
        found = list(measured(case, asked.folder))
        rows += found
        for row in found:
            print(*row, sep=" | ", flush=True)
    if asked.out:
        lead = f"# The same weights, other products\n\n{READING}"
        publish("\n\n".join([lead, environment(), table(HEADER, rows)]), asked.out)


def cases(folder: Path, *, small: bool) -> list[Case]:
    demo = Path(str(files("okno"))) / "data" / "demo.gguf"
    with open_raw(demo, RawOptions(ctx=64)) as engine:
        text = (files("okno") / "data" / "depth_ru_en.txt").read_text(encoding="utf-8")
        tokens = engine.tokenize(text[:4000])[:N_TOKENS]
    found = [Case("demo (trained), 256 wide, 5 layers", demo, tokens)]
    for width, n_layer in RANDOM[:1] if small else RANDOM:
        shape = Shape(
            "random", "llama", n_embd=width, n_layer=n_layer, n_head=width // 64,
            n_head_kv=width // 64, head_dim=64, n_ff=width * 11 // 4 // 32 * 32, n_vocab=4096,
            ctx_train=512, tied=False,
        )  # fmt: skip
        path = folder / f"random-{width}-{n_layer}.gguf"
        write_gguf(shape, path, "F32")
        chosen = [int(t) for t in np.random.default_rng(5).integers(300, 4000, N_TOKENS)]
        found.append(Case(f"random, {width} wide, {n_layer} layers", path, chosen, SPREADS))
    return found


def measured(case: Case, folder: Path) -> list[tuple[str, ...]]:
    """A row for each kind and spread."""
    exact = logits(stored(case.floats, folder / "exact.gguf", "F32"), case.tokens)
    found = []
    for kind in KINDS:
        other = logits(stored(case.floats, folder / "other.gguf", kind), case.tokens)
        spreads = case.spreads if kind == KINDS[0] else case.spreads[2:3]
        for spread in spreads or (deviation(exact),):
            scale = spread / deviation(exact)
            found.append((case.name, kind, *compared(exact * scale, other * scale)))
    if not case.spreads:  # other ways through the same file
        path = stored(case.floats, folder / "other.gguf", "Q4_0")
        for told, found_so in (
            ("Q4_0, not repacked", logits(path, case.tokens, repack=False)),
            ("Q4_0, one token a step", logits(path, case.tokens, together=1)),
        ):
            found.append((case.name, told, *compared(exact, found_so)))
    for name in ("exact.gguf", "other.gguf"):
        (folder / name).unlink()
    return found


def compared(exact: Floats, other: Floats) -> tuple[str, ...]:
    p, q = log_softmax(exact), log_softmax(other)
    kl = (np.exp(p) * (p - q)).sum(-1)
    entropy = -(np.exp(p) * p).sum(-1).mean()
    spread = deviation(exact)
    same = (exact.argmax(-1) == other.argmax(-1)).mean()
    return (
        f"{spread:.2f}", f"{entropy:.2f}", f"{kl.mean():.1e}", f"{kl.max():.1e}",
        f"{kl.mean() / spread**2:.1e}", f"{same:.1%}",
    )  # fmt: skip


def deviation(found: Floats) -> float:
    """Of the logits of a position, in the mean over the positions."""
    return float(found.std(-1).mean())


def log_softmax(found: Floats) -> npt.NDArray[np.float64]:
    shifted = found.astype(np.float64) - found.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def stored(source: Path, target: Path, kind: str) -> Path:
    """The model with the matrices of its layers rounded to Q4_0 and stored as `kind`."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = np.asarray(tensor.data, np.float32)
        if values.ndim < 2 or not tensor.name.startswith("blk."):
            writer.add_tensor(tensor.name, values)
            continue
        columns = values.shape[1]
        data = as_kind(quantise_rows(values, "Q4_0"), columns, kind)
        raw = gguf.GGMLQuantizationType[kind] if kind not in ("F32", "F16") else None
        writer.add_tensor(tensor.name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def as_kind(blocks: npt.NDArray[np.uint8], columns: int, kind: str) -> npt.NDArray[np.generic]:
    """Rows of Q4_0 as another type that holds just these numbers (F16: nearly)."""
    rows = blocks.shape[0]
    parts = blocks.reshape(rows, columns // 32, 18)
    if kind == "Q4_0":
        return blocks
    if kind in ("F32", "F16"):
        found = dequantise_rows(blocks, "Q4_0", columns)
        return found.astype(np.float16) if kind == "F16" else found
    scales = parts[:, :, :2]
    if kind == "Q4_1":
        offsets = (scales.copy().view(np.float16) * np.float16(-8)).view(np.uint8)
        return np.concatenate([scales, offsets, parts[:, :, 2:]], axis=2).reshape(rows, -1)
    low, high = parts[:, :, 2:] & 15, parts[:, :, 2:] >> 4
    numbers = np.concatenate([low, high], axis=2).astype(np.int8) - np.int8(8)
    return np.concatenate([scales, numbers.view(np.uint8)], axis=2).reshape(rows, -1)


def logits(
    path: Path, tokens: Sequence[int], *, repack: bool = True, together: int = N_TOKENS
) -> Floats:
    """(tokens, vocabulary), keys and values in 32 bits. together: tokens of a step."""
    options = RawOptions(
        ctx=512,
        step_tokens=512,
        threads=1,
        kv_f32=True,
        flash_attention="off",
        repack=repack,
    )
    with open_raw(path, options) as engine:
        found = []
        for start in range(0, len(tokens), together):
            rows = [Row(t, start + n) for n, t in enumerate(tokens[start : start + together])]
            engine.decode(rows)
            found += [engine.logits(n).copy() for n in range(len(rows))]
        return np.array(found)


if __name__ == "__main__":
    main()
