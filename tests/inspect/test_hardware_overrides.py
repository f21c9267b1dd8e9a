"""What-if: machines that are not here."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.errors import BadSetting
from okno.core.machine import Cpu, Device, Machine, Ram
from okno.inspect.hardware.asked import overrides_from
from okno.inspect.hardware.overrides import KINDS, Overrides, apply
from okno.inspect.hardware.quantities import parse_bandwidth, parse_bytes

MIB, GIB = 1 << 20, 1 << 30
CPU = Cpu("Test CPU", "x86_64", physical_cores=4, logical_cores=8, usable_cores=4)
PLAIN = Machine("Linux", CPU, Ram(32 * GIB, 20 * GIB, "/sys/fs/cgroup/app", 24 * GIB))
CARD = Device("CUDA0", "cuda", "Some card", 12 * GIB, 11 * GIB, source="nvidia-smi")
WITH_CARD = Machine("Linux", CPU, PLAIN.ram, (CARD,))


def made(machine: Machine = PLAIN, **words: str) -> Machine:
    return apply(machine, overrides_from(words))


# Quantities


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("8GB", 8 * GIB), ("8GiB", 8 * GIB), ("8g", 8 * GIB), ("12000MiB", 12000 * MIB),
        ("8192 MB", 8 * GIB), (" 1.5 TB ", 1536 * GIB), ("0.5gb", GIB // 2), ("100B", 100),
    ],
)  # fmt: skip
def test_sizes_of_memory_are_binary_as_memory_is_sold(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("300GB/s", 3e11), ("1.6 TB/s", 1.6e12), ("50GBps", 5e10), ("100gb", 1e11),
        ("10GiB/s", 10 * 1024**3),
    ],
)  # fmt: skip
def test_bandwidths_are_decimal_as_data_sheets_are(text: str, bytes_s: float) -> None:
    assert parse_bandwidth(text) == bytes_s


@pytest.mark.parametrize(
    "text", ["", "8", "GB", "-8GB", "8 GB GB", "8gi", "8XB", "0GB", "1e9GB", "٨GB", "9" * 40 + "GB"]
)
def test_a_size_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSetting, match="such as 8GB") as refused:
        parse_bytes(text, "--memory")
    assert refused.value.info.param == "--memory"
    assert refused.value.message.startswith("--memory ")


@pytest.mark.parametrize("text", ["", "300", "fast", "0GB/s", "300Gb/s/s", "300 GB/h"])
def test_a_bandwidth_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSetting, match="such as 300GB/s"):
        parse_bandwidth(text, "--bandwidth")


@given(st.text(max_size=60))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    for parse in (parse_bytes, parse_bandwidth):
        try:
            assert parse(text) > 0
        except BadSetting as error:
            said = error.message
            assert said.isprintable()


@given(st.integers(1, 10**6), st.sampled_from(["KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_grows_with_its_number(number: int, unit: str) -> None:
    assert parse_bytes(f"{number}{unit}") == number * parse_bytes(f"1{unit}")


# Where an override goes


def test_nothing_given_changes_nothing() -> None:
    assert made() is PLAIN
    assert not Overrides().given


def test_memory_with_a_kind_is_a_card_of_that_size() -> None:
    machine = made(memory="8GB", device="cuda")
    (card,) = machine.devices
    assert (card.id, card.kind, card.total_bytes, card.unified) == ("CUDA0", "cuda", 8 * GIB, False)
    assert machine.ram == PLAIN.ram


def test_what_is_assumed_free_is_said() -> None:
    machine = made(memory="8GB", device="cuda")
    assert machine.devices[0].free_bytes == 8 * GIB - GIB // 2
    assert machine.overrides == ("device cuda", "CUDA0 memory 8 GiB, 7.5 GiB free (assumed)")


def test_what_is_given_as_free_is_not_assumed() -> None:
    machine = made(memory="8GB", device="cuda", free="6GB")
    assert machine.devices[0].free_bytes == 6 * GIB
    assert "assumed" not in " ".join(machine.overrides)


def test_memory_on_the_cpu_is_main_memory() -> None:
    machine = made(WITH_CARD, memory="8GB", device="cpu")
    assert machine.devices == ()
    assert machine.ram == Ram(8 * GIB, 7 * GIB, "given")


def test_without_a_device_memory_is_where_the_model_would_run() -> None:
    assert made(memory="8GB").ram.total_bytes == 8 * GIB
    machine = made(WITH_CARD, memory="8GB")
    assert (machine.devices[0].total_bytes, machine.ram) == (8 * GIB, PLAIN.ram)


def test_a_card_the_engine_cannot_use_is_not_where_it_would_run() -> None:
    useless = Machine("Linux", CPU, PLAIN.ram, (Device(**{**_fields(CARD), "unusable": "no"}),))
    assert made(useless, memory="8GB").ram.total_bytes == 8 * GIB


def test_a_kind_alone_is_the_card_that_is_here_as_if_it_were_usable() -> None:
    useless = Machine("Linux", CPU, PLAIN.ram, (Device(**{**_fields(CARD), "unusable": "no"}),))
    assert made(useless, device="cuda").devices == (CARD,)


def test_a_kind_that_is_not_here_needs_a_size() -> None:
    with pytest.raises(BadSetting, match=r"this machine has none.*--device rocm --memory 16GB"):
        made(WITH_CARD, device="rocm")


def test_unified_memory_changes_both() -> None:
    machine = made(memory="32GB", device="metal")
    (gpu,) = machine.devices
    assert machine.ram.total_bytes == 32 * GIB
    assert (gpu.unified, gpu.total_bytes) == (True, 32 * GIB * 2 // 3)
    assert gpu.free_bytes == gpu.total_bytes


def test_a_known_name_brings_its_makers_figures() -> None:
    (card,) = made(device="RTX 4090").devices
    assert (card.kind, card.total_bytes, card.bandwidth_bytes_s) == ("cuda", 24 * GIB, 1008e9)
    assert card.flops_f16 is not None


def test_a_name_with_variants_asks_which() -> None:
    with pytest.raises(BadSetting, match=r"12 GiB at 360 GB/s, 8 GiB at 240 GB/s"):
        made(device="RTX 3060")
    assert made(device="RTX 3060", memory="8GB").devices[0].bandwidth_bytes_s == 240e9


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadSetting, match="nearest known: RTX 4090"):
        made(device="RTX 4099")


def test_bandwidth_goes_where_memory_goes() -> None:
    assert made(bandwidth="50GB/s").bandwidth_bytes_s == 5e10
    machine = made(WITH_CARD, bandwidth="500GB/s")
    assert (machine.devices[0].bandwidth_bytes_s, machine.bandwidth_bytes_s) == (5e11, None)


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_cores_are_those_that_compute(cores: int) -> None:
    cpu = made(cores=str(cores)).cpu
    assert cpu.usable_cores == cores
    assert cpu.usable_cores <= cpu.physical_cores <= cpu.logical_cores


@pytest.mark.parametrize("cores", ["0", "-1", "two", "1.5", "99999", ""])
def test_cores_that_cannot_be(cores: str) -> None:
    with pytest.raises(BadSetting, match="--cores"):
        made(cores=cores)


def test_no_more_can_be_free_than_there_is() -> None:
    with pytest.raises(BadSetting, match=re.escape("--free 9 GiB is more than")):
        made(memory="8GB", free="9GB")


def test_an_empty_device_is_refused() -> None:
    with pytest.raises(BadSetting, match="--device is empty"):
        made(device=" ")


def test_another_machine_has_another_fingerprint() -> None:
    prints = {PLAIN.fingerprint, made(cores="2").fingerprint, made(device="RTX 4090").fingerprint}
    assert len(prints) == 3


words = st.fixed_dictionaries({}, optional={
    "memory": st.sampled_from(["1MB", "8GB", "64 GiB", "bad"]),
    "device": st.sampled_from([*KINDS, "cpu", "RTX 4090", "RTX 3060", "Apple M2", "x\n"]),
    "bandwidth": st.sampled_from(["1GB/s", "900GB/s", "bad"]),
    "cores": st.sampled_from(["1", "32", "bad"]),
    "free": st.sampled_from(["1MB", "4GB", "100GB"]),
})  # fmt: skip


@given(st.sampled_from([PLAIN, WITH_CARD]), words)
def test_a_what_if_is_a_sound_machine_or_refused(machine: Machine, asked: dict[str, str]) -> None:
    try:
        found = made(machine, **asked)
    except BadSetting as error:
        said = error.message
        assert said.isprintable()
        return
    assert 0 <= found.ram.free_bytes <= found.ram.total_bytes
    for device in found.devices:
        assert device.free_bytes is not None
        assert 0 <= device.free_bytes <= device.total_bytes
    assert bool(found.overrides) == bool(asked)


def _fields(device: Device) -> dict[str, object]:
    return {name: getattr(device, name) for name in device.__slots__}
