"""The makers' figures, found by the names drivers give."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.machine import DeviceKind
from okno.inspect.hardware.maker import figures_of, table, variants_of

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("name", "total_mib", "gb_s"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, 1008),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, 576),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 16376, 672),
        ("NVIDIA GeForce RTX 4070 Ti", 12282, 504),
        ("NVIDIA A100-SXM4-80GB", 81920, 2039),
        ("NVIDIA A100 80GB PCIe", 81920, 1935),
        ("NVIDIA A100-PCIE-40GB", 40960, 1555),
        ("NVIDIA H100 80GB HBM3", 81559, 3350),
        ("NVIDIA H100 PCIe", 81559, 2000),
        ("NVIDIA H200", 143771, 4800),
        ("Tesla T4", 15360, 320),
        ("NVIDIA L4", 23034, 300),
        ("NVIDIA RTX 6000 Ada Generation", 49140, 960),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", 24560, 960),
        ("AMD Instinct MI300X", 196592, 5300),
        ("Intel(R) Arc(TM) A770 Graphics", 16288, 560),
    ],
)
def test_names_of_drivers(name: str, total_mib: int, gb_s: float) -> None:
    found = figures_of(name, total_mib * MIB)
    assert found is not None
    assert found.bandwidth_bytes_s == gb_s * 1e9


@pytest.mark.parametrize(
    "name",
    ["", "GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 5070 Ti SUPER", "llvmpipe",
     "AMD Radeon RX 7900 XTX 7900 XT", "NVIDIA Graphics Device"],
)  # fmt: skip
def test_a_device_that_is_not_listed_is_unknown_not_guessed(name: str) -> None:
    assert figures_of(name) is None


def test_the_size_chooses_among_variants() -> None:
    assert figures_of("NVIDIA GeForce RTX 3060") is None
    small, large = (figures_of("NVIDIA GeForce RTX 3060", gib * GIB) for gib in (8, 12))
    assert small is not None
    assert large is not None
    assert small.bandwidth_bytes_s < large.bandwidth_bytes_s


def test_gpu_cores_choose_among_apples_variants() -> None:
    assert figures_of("Apple M3 Max") is None
    assert len(variants_of("Apple M3 Max")) == 2
    found = figures_of("Apple M3 Max", cores=40)
    assert found is not None
    assert found.bandwidth_bytes_s == 400e9


def test_a_size_no_variant_has_is_another_device() -> None:
    assert figures_of("NVIDIA GeForce RTX 4090", 48 * GIB) is None


def test_every_entry_is_sound_and_names_its_source() -> None:
    for one in table():
        assert one.kind in get_args(DeviceKind)
        assert 50e9 <= one.bandwidth_bytes_s <= 10e12, one
        assert one.flops_f16 is None or 1e12 <= one.flops_f16 <= 1e16, one
        assert one.memory_bytes is not None or one.unified, one
        assert len(one.source) > 10


def test_every_entry_is_found_by_its_own_name() -> None:
    for one in table():
        assert figures_of(one.name, one.memory_bytes, one.cores) == one


def test_no_device_stands_there_twice() -> None:
    keys = [(one.name, one.memory_bytes, one.cores) for one in table()]
    assert len(keys) == len(set(keys))


@given(st.text(max_size=80))
def test_any_name(name: str) -> None:
    found = figures_of(name)
    assert found is None or found in table()
