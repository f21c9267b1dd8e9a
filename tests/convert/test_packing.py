"""What a checkpoint says of its packing is understood, or refused with what to do."""

from __future__ import annotations

import pytest

from okno.convert.packing import packing_of
from okno.core.errors import ModelUnusable

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}


def of(said: dict[str, object], **more: object):
    return packing_of({"quantization_config": {**said, **more}}, {}, "model")


def test_a_gptq_model_says_it_in_config_json():
    found = of(GPTQ)
    assert found is not None
    assert (found.method, found.bits, found.group_size, found.layout) == ("GPTQ", 4, 128, "gptq")


def test_an_old_repository_has_quantize_config_json_alone():
    found = packing_of({}, {"bits": 8, "group_size": -1, "desc_act": True}, "model")
    assert found is not None
    assert (found.method, found.bits, found.group_size) == ("GPTQ", 8, -1)


def test_config_json_goes_before_quantize_config_json():
    found = packing_of({"quantization_config": GPTQ}, {"bits": 8, "group_size": 32}, "model")
    assert found is not None
    assert found.bits == 4


def test_the_second_format_has_its_own_zero_points():
    found = of(GPTQ, checkpoint_format="gptq_v2")
    assert found is not None
    assert found.layout == "gptq_v2"


def test_the_language_part_of_a_model_with_several_is_asked():
    found = packing_of({"text_config": {"quantization_config": AWQ}}, {}, "model")
    assert found is not None
    assert (found.method, found.layout) == ("AWQ", "gemm")


def test_awq_of_other_names_for_its_sizes():
    found = packing_of({}, {"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "model")
    assert found is not None
    assert (found.bits, found.group_size) == (4, 64)


def test_what_is_not_packed_so_is_left_to_others():
    assert packing_of({}, {}, "model") is None
    assert of({"quant_method": "fp8"}) is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (GPTQ | {"bits": 5}, "2, 3, 4 and 8 are possible"),
        (GPTQ | {"bits": "four"}, "'four' for bits"),
        ({"quant_method": "gptq", "group_size": 128}, "does not say its bits"),
        (GPTQ | {"group_size": 0}, "must be a positive number"),
        (GPTQ | {"checkpoint_format": "marlin"}, "rearranged for one kind of GPU"),
        (GPTQ | {"is_marlin_format": True}, "'marlin'"),
        (AWQ | {"bits": 8}, "only 4 are possible"),
        (AWQ | {"version": "gemv_fast"}, "'gemv_fast'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_out(said: dict[str, object], told: str):
    with pytest.raises(ModelUnusable) as caught:
        of(said)
    assert told in caught.value.message
    assert "GGUF" in caught.value.message
