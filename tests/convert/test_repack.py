"""Packed weights become blocks of ggml with the same values.

The reference is the packers' formula (packers.Truth.weights); the blocks are read by
gguf.quants.dequantize. Neither shares code with okno.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.convert.absorb import absorbed_order
from okno.convert.packed_layer import Order, PackedLayer, packed_layer
from okno.convert.packing import Layout, Packing
from okno.convert.repack import MAX_RELATIVE, MAX_STEPS, Report, choose, repack, report, weights
from okno.core.errors import ModelUnusable
from tests.convert.packers import Array, Truth, awq_gemm, awq_gemv, gptq, layer

OWN_RMS_STEPS = 12**-0.5  # of a number rounded to whole steps


def opened(
    truth: Truth, tensors: Mapping[str, Array], layout: Layout = "gptq", group: int = 32
) -> PackedLayer:
    return packed_layer(Packing(truth.bits, group, layout, "model"), "layer", tensors.get)


def made(packed: PackedLayer, order: Order | None = None) -> tuple[npt.NDArray[np.float32], Report]:
    """The layer's weights as another program reads them, and okno's report."""
    choice = choose(packed, order)
    pieces = [repack(choice, start, stop) for start, stop in packed.pieces()]
    stored = np.concatenate([piece.blocks for piece in pieces])
    kind = gguf.GGMLQuantizationType[choice.ggml_type]
    return quants.dequantize(stored, kind), report(choice, [piece.sums for piece in pieces])


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_symmetric_4_bit_gptq_is_the_same_in_q4_0(group: int, v2: bool):
    truth = layer(256, 48, group=group)
    found, told = made(opened(truth, gptq(truth, v2=v2), "gptq_v2" if v2 else "gptq", group))
    assert (told.ggml_type, told.how, told.error_steps) == ("Q4_0", "exact", 0.0)
    np.testing.assert_array_equal(found, truth.weights())


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_asymmetric_4_bit_gptq_is_q4_1_but_for_16_bit_offsets(group: int, v2: bool):
    truth = layer(256, 48, group=group, sym=False)
    found, told = made(opened(truth, gptq(truth, v2=v2), "gptq_v2" if v2 else "gptq", group))
    steps = truth.scales[truth.groups].T.astype(np.float64)
    moved = np.abs(found - truth.weights()) / steps
    assert (told.ggml_type, told.how) == ("Q4_1", "rounded")
    assert 0 < moved.max() <= told.error_steps + 1e-6 < 0.01


@pytest.mark.parametrize("group", [32, 128, -1])
def test_symmetric_8_bit_gptq_is_the_same_in_q8_0(group: int):
    truth = layer(256, 48, bits=8, group=group)
    found, told = made(opened(truth, gptq(truth), group=group))
    assert (told.ggml_type, told.how) == ("Q8_0", "exact")
    assert truth.numbers.min() == 0  # becomes -128, the least that Q8_0 has
    np.testing.assert_array_equal(found, truth.weights())


def test_asymmetric_8_bit_gptq_stays_within_the_bound():
    truth = layer(256, 48, bits=8, group=64, sym=False)
    truth = replace(truth, zeros=np.clip(truth.zeros, 118, 138))
    found, told = made(opened(truth, gptq(truth), group=64))
    assert (told.ggml_type, told.how) == ("Q8_0", "requantised")
    wanted = truth.weights()
    error = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    assert error == pytest.approx(told.error_relative, rel=1e-3)
    assert 0 < error <= MAX_RELATIVE


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3])
def test_2_and_3_bits_are_the_same_in_q4_0_which_needs_more_memory(bits: int, sym: bool):
    truth = layer(256, 64, bits=bits, sym=sym)
    found, told = made(opened(truth, gptq(truth)))
    assert (told.ggml_type, told.how, told.grew) == ("Q4_0", "exact", True)
    np.testing.assert_array_equal(found, truth.weights())


@pytest.mark.parametrize("layout", ["gemm", "gemv"])
@pytest.mark.parametrize("group", [32, 64, -1])
def test_awq_is_q4_1_but_for_16_bit_offsets(layout: Layout, group: int):
    truth = layer(256, 48, group=group, sym=False)
    truth.zeros[:, :8] = 0  # AWQ stores zero points as they are, also none
    tensors = awq_gemm(truth) if layout == "gemm" else awq_gemv(truth)
    found, told = made(opened(truth, tensors, layout, group))
    steps = truth.scales[truth.groups].T.astype(np.float64)
    assert told.ggml_type == "Q4_1"
    assert (np.abs(found - truth.weights()) / steps).max() <= told.error_steps + 1e-6 < 0.01


def test_act_order_that_the_layer_before_absorbs_is_exact_in_the_order_it_gives():
    truth = layer(512, 48, group=128, act_order=True)
    packed = opened(truth, gptq(truth), group=128)
    order = absorbed_order(packed.group_of, packed.n_columns)
    assert order is not None
    found, told = made(packed, order)
    assert (told.ggml_type, told.how) == ("Q4_0", "exact")
    np.testing.assert_array_equal(found, truth.weights()[:, order])
    before = np.random.default_rng(1).standard_normal((512, 16))  # gives the 512 inputs
    np.testing.assert_allclose(found @ before[order], truth.weights() @ before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("columns", [512, 288])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_act_order_that_nothing_absorbs_is_requantised_within_the_bound(bits: int, columns: int):
    truth = layer(columns, 64, bits=bits, group=32, act_order=True)
    packed = opened(truth, gptq(truth))
    found, told = made(packed)
    wanted, steps = truth.weights(), truth.scales[truth.groups].T.astype(np.float64)
    error = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(steps**2))
    assert told.how == "requantised"
    assert told.error_steps == pytest.approx(error, rel=1e-3)
    assert error <= MAX_STEPS or told.error_relative <= MAX_RELATIVE


def test_the_bound_asks_for_no_larger_type_than_needed():
    """Numbers as of a real layer become Q6_K; the next smaller type would be over it."""
    rng = np.random.default_rng(5)
    truth = layer(512, 64, group=128, act_order=True)
    numbers = np.clip(np.rint(rng.normal(8, 2.9, (512, 64))), 0, 15).astype(np.int64)
    scales = rng.uniform(0.008, 0.012, (4, 64)).astype(np.float16)
    truth = replace(truth, numbers=numbers, scales=scales)
    packed = opened(truth, gptq(truth), group=128)
    _, told = made(packed)
    assert told.ggml_type == "Q6_K"
    wanted, steps = weights(packed, 0, 64)
    smaller = quants.dequantize(
        quants.quantize(wanted, gguf.GGMLQuantizationType.Q5_1), gguf.GGMLQuantizationType.Q5_1
    )
    assert np.sqrt(np.mean((smaller - wanted) ** 2) / np.mean(steps**2)) > MAX_STEPS


def test_groups_in_order_count_as_no_act_order():
    """Static groups: desc_act is on, and the inputs lie as they would without."""
    truth = layer(256, 32, group=64)
    assert made(opened(truth, gptq(truth), group=64))[1].how == "exact"


def test_a_checkpoint_without_g_idx_has_its_groups_in_order():
    truth = layer(256, 32, group=64)
    tensors = gptq(truth)
    del tensors["layer.g_idx"]
    found, _ = made(opened(truth, tensors, group=64))
    np.testing.assert_array_equal(found, truth.weights())


def test_a_group_that_ends_inside_a_block_is_requantised():
    truth = layer(96, 32, group=48)
    found, told = made(opened(truth, gptq(truth), group=48))
    assert (told.ggml_type, told.how) == ("Q8_0", "requantised")
    assert np.abs(found - truth.weights()).max() < truth.scales.max() / 10


def test_inputs_that_are_no_whole_number_of_blocks_stay_in_16_bits():
    truth = layer(48, 32, group=16)
    found, told = made(opened(truth, gptq(truth), group=16))
    assert told.ggml_type == "F16"
    np.testing.assert_allclose(found, truth.weights(), rtol=2**-11, atol=1e-7)


def test_scales_of_bfloat16_are_carried_as_they_are():
    truth = layer(64, 32)
    bits = truth.scales.astype(np.float32).view(np.uint32) >> 16
    kept = (bits.astype(np.uint32) << 16).view(np.float32)
    tensors = gptq(truth) | {"layer.scales": bits.astype(np.uint16)}
    found, told = made(opened(truth, tensors))
    assert told.how == "exact"
    np.testing.assert_array_equal(found, replace(truth, scales=kept).weights())  # type: ignore[arg-type]


def test_scales_of_32_bits_are_rounded_to_16_and_that_is_told():
    truth = layer(64, 32)
    fine = truth.scales.astype(np.float32) * np.float32(1.0001)
    found, told = made(opened(truth, gptq(truth) | {"layer.scales": fine}))
    wanted = replace(truth, scales=fine).weights()  # type: ignore[arg-type]
    assert (told.ggml_type, told.how) == ("Q4_0", "rounded")
    assert 0 < np.abs((found - wanted) / fine[truth.groups].T).max() <= told.error_steps + 1e-6


def test_scales_too_small_for_16_bits_are_not_lost():
    truth = layer(64, 32)
    tiny = truth.scales.astype(np.float32) * np.float32(1e-7)
    found, told = made(opened(truth, gptq(truth) | {"layer.scales": tiny}))
    wanted = replace(truth, scales=tiny).weights()  # type: ignore[arg-type]
    assert told.how == "requantised"
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_zero_points_of_zero_survive_the_first_format():
    """GPTQModel subtracts one from whole words, so that a zero borrows from its neighbour."""
    truth = layer(64, 32, sym=False)
    truth.zeros[:, ::3] = 0
    right = gptq(truth, v2=True)
    words = right["layer.qzeros"].view(np.uint32) - np.uint32(0x11111111)
    found = opened(truth, right | {"layer.qzeros": words.view(np.int32)})
    np.testing.assert_array_equal(found.zeros, truth.zeros)


@given(
    st.sampled_from([2, 3, 4, 8]),
    st.integers(1, 8),
    st.integers(1, 6),
    st.sampled_from([-1, 16, 32, 96]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_numbers_are_read_as_they_were_packed(
    bits: int, inputs: int, outputs: int, group: int, sym: bool, v2: bool, seed: int
):
    truth = layer(32 * inputs, 32 * outputs, bits=bits, group=group, sym=sym, seed=seed)
    packed = opened(truth, gptq(truth, v2=v2), "gptq_v2" if v2 else "gptq", group)
    np.testing.assert_array_equal(packed.values(0, packed.n_rows).T, truth.numbers)
    np.testing.assert_array_equal(packed.values(8, 16).T, truth.numbers[:, 8:16])
    np.testing.assert_array_equal(packed.zeros, truth.zeros)
    found, _ = weights(packed, 0, packed.n_rows)
    np.testing.assert_allclose(found, truth.weights(), rtol=1e-6)


def without(tensors: dict[str, Array], part: str) -> dict[str, Array]:
    return {name: value for name, value in tensors.items() if name != f"layer.{part}"}


GOOD = gptq(layer(64, 32))
BROKEN = {
    "no scales": (without(GOOD, "scales"), "no layer.scales"),
    "no zeros": (without(GOOD, "qzeros"), "no layer.qzeros"),
    "other bits": (gptq(layer(64, 32, bits=8)), "Correct `bits`"),
    "torn words": (GOOD | {"layer.qweight": GOOD["layer.qweight"][:7]}, "damaged"),
    "zeros of another layer": (GOOD | {"layer.qzeros": GOOD["layer.qzeros"][:, :2]}, "(2, 4)"),
    "scales of another group": (GOOD | {"layer.scales": GOOD["layer.scales"][:1],
                                        "layer.qzeros": GOOD["layer.qzeros"][:1]}, "`group_size`"),
    "a group too many": (GOOD | {"layer.g_idx": GOOD["layer.g_idx"] + 1}, "there are 2 groups"),
    "a negative group": (GOOD | {"layer.g_idx": GOOD["layer.g_idx"] - 1}, "there are 2 groups"),
    "groups of floats": (GOOD | {"layer.g_idx": GOOD["layer.g_idx"] * 0.5}, "type float64"),
    "words of floats": (GOOD | {"layer.qweight": GOOD["layer.qweight"] * 0.5}, "integers of 32"),
    "scales of integers": (GOOD | {"layer.scales": GOOD["layer.qzeros"]}, "with a point"),
    "scales of nothing": (GOOD | {"layer.scales": np.full((2, 32), np.nan, np.float16)},
                          "no finite numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_in_the_files_is_told_with_what_to_do(case: str):
    tensors, told = BROKEN[case]
    with pytest.raises(ModelUnusable) as caught:
        opened(layer(64, 32), tensors)
    assert told in caught.value.message
    assert "et the model again" in caught.value.message or "GGUF" in caught.value.message


def test_layers_may_differ_where_the_configuration_says_so():
    truth = layer(64, 32, bits=8)
    packing = Packing(4, 32, "gptq", "model", has_exceptions=True)
    packed = packed_layer(packing, "layer", gptq(truth).get)
    assert packed.bits == 8
    np.testing.assert_array_equal(made(packed)[0], truth.weights())
