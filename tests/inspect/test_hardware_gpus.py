"""Accelerators, from what their programs and drivers say of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.inspect.hardware import amd, apple, intel, nvidia, vulkan
from okno.inspect.hardware.devices import Found, as_device, numbered
from okno.inspect.hardware.host import Host, NotReadable
from tests.inspect import hardware_samples as samples

MIB, GIB = 1 << 20, 1 << 30
Answer = str | NotReadable | None


def host(
    answers: Mapping[str, Answer] | Callable[[Sequence[str]], str | None] = {},  # noqa: B006
    files: Mapping[str, str] = {},
    os: str = "Linux",
    **environment: str,
) -> Host:
    """A host whose programs answer `answers` (by program name)."""

    def call(args: Sequence[str]) -> str | None:
        answer = answers.get(args[0]) if isinstance(answers, Mapping) else answers(args)
        if isinstance(answer, NotReadable):
            raise answer
        return answer

    def names(folder: PurePosixPath) -> list[str]:
        start = f"{folder}/"
        return sorted({p.removeprefix(start).split("/")[0] for p in files if p.startswith(start)})

    return Host(os, "x86_64", call, lambda path: files.get(str(path)), names, environment)


# NVIDIA


def test_an_nvidia_gpu_has_a_name_a_size_and_what_is_free() -> None:
    assert nvidia.find(host({"nvidia-smi": samples.NVIDIA_4090})) == [
        Found("cuda", "NVIDIA GeForce RTX 4090", 24564 * MIB, 23028 * MIB, "nvidia-smi")
    ]


def test_old_drivers_are_asked_again_without_what_they_do_not_know() -> None:
    def smi(args: Sequence[str]) -> str | None:
        if "mig.mode.current" in args[1]:
            raise NotReadable(
                'nvidia-smi failed with status 2: Field "mig.mode.current" is not a valid field'
            )
        return samples.NVIDIA_TWO_OLD

    names = [one.name for one in nvidia.find(host(smi))]
    assert names == ["GeForce GTX 1660 Ti", "Tesla P40"]


@pytest.mark.parametrize("text", [samples.NVIDIA_GB10, samples.NVIDIA_NANO])
def test_a_gpu_without_memory_of_its_own_is_unified(text: str) -> None:
    (found,) = nvidia.find(host({"nvidia-smi": text}))
    assert found.unified
    device = as_device("CUDA0", found, ram_total_bytes=122 * GIB, ram_free_bytes=100 * GIB)
    assert (device.total_bytes, device.free_bytes) == (122 * GIB, 100 * GIB)


PARTS_LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-feba7e40-d724-01ff-b00f-3a439a28a6c7)
  MIG 3g.40gb     Device  0: (UUID: MIG-11111111-aaaa-5ff8-8cbb-5a1c1d0e5bd7)
  MIG 1g.20gb     Device  1: (UUID: MIG-22222222-bbbb-5ff8-8cbb-5a1c1d0e5bd7)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-61a65011-6571-a6d2-5ab8-66cbb6f7f9c3)
"""


def mig(args: Sequence[str]) -> str:
    if "-L" in args:
        return PARTS_LISTED
    return samples.NVIDIA_MIG_XML if "-x" in args else samples.NVIDIA_H100_MIG


def test_of_gpus_in_mig_mode_cuda_uses_the_first_part_and_nothing_else() -> None:
    found = nvidia.find(host(mig))
    assert [(one.name, one.total_bytes, one.free_bytes) for one in found] == [
        ("NVIDIA H100 80GB HBM3 MIG", 40448 * MIB, 40151 * MIB),
        ("NVIDIA H100 80GB HBM3 MIG", 20096 * MIB, 20085 * MIB),
        ("NVIDIA H100 80GB HBM3", 81559 * MIB, 81008 * MIB),
    ]
    assert [one.hidden for one in found] == ["", nvidia.ONE_PART, nvidia.ONE_PART]


@pytest.mark.parametrize(
    ("setting", "mebibytes"),
    [
        ("MIG-22222222-bbbb-5ff8-8cbb-5a1c1d0e5bd7", 20096),
        ("MIG-11111111", 40448),
        ("MIG-22222222,MIG-11111111", 20096),
        ("MIG-22222222,MIG-22222222", 20096),
        ("GPU-feba7e40", 40448),
        ("0", 40448),
        ("1,0", 40448),
        ("1", 81559),
        ("1,MIG-99999999", 81559),
        ("MIG-99999999,1", None),
    ],
)
def test_a_part_is_named_by_its_own_uuid(setting: str, mebibytes: int | None) -> None:
    found = nvidia.find(host(mig, CUDA_VISIBLE_DEVICES=setting))
    assert len(found) == 3
    shown = [one.total_bytes for one in found if not one.hidden]
    assert shown == ([] if mebibytes is None else [mebibytes * MIB])


@pytest.mark.parametrize(
    ("setting", "n_shown"),
    [("MIG-GPU-feba7e40-d724-01ff-b00f-3a439a28a6c7/1/0", 1), ("MIG-GPU-99999999/1/0", 0)],
)
def test_where_uuids_of_parts_are_unknown_their_gpu_s_counts(setting: str, n_shown: int) -> None:
    def without_list(args: Sequence[str]) -> str:
        if "-L" in args:
            raise NotReadable("nvidia-smi failed with status 9: -L")
        return mig(args)

    found = nvidia.find(host(without_list, CUDA_VISIBLE_DEVICES=setting))
    assert [one.total_bytes for one in found if not one.hidden] == [40448 * MIB] * n_shown


def test_a_gpu_in_mig_mode_without_parts_says_so() -> None:
    xml = "<nvidia_smi_log></nvidia_smi_log>"
    found = nvidia.find(host(lambda args: xml if "-x" in args else samples.NVIDIA_H100_MIG))
    assert "no MIG device" in found[0].hidden


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("1", ["Tesla P40"]),
        ("1,0", ["Tesla P40", "GeForce GTX 1660 Ti"]),
        ("GPU-f18afb8d", ["Tesla P40"]),
        ("", []),
        ("-1", []),
    ],
)
def test_cuda_visible_devices_hides_and_orders(setting: str, shown: list[str]) -> None:
    found = nvidia.find(host({"nvidia-smi": samples.NVIDIA_TWO_OLD}, CUDA_VISIBLE_DEVICES=setting))
    assert [one.name for one in found if not one.hidden] == shown
    assert len(found) == 2
    assert all("CUDA_VISIBLE_DEVICES" in one.hidden for one in found if one.name not in shown)


def test_ids_are_those_of_the_engine_which_does_not_count_hidden_ones() -> None:
    found = nvidia.find(host({"nvidia-smi": samples.NVIDIA_TWO_OLD}, CUDA_VISIBLE_DEVICES="1"))
    assert [(name, one.name) for name, one in numbered(found)] == [
        ("CUDA0", "Tesla P40"), ("CUDA hidden 0", "GeForce GTX 1660 Ti"),
    ]  # fmt: skip


def test_wsl_keeps_nvidia_smi_elsewhere() -> None:
    found = nvidia.find(host({"/usr/lib/wsl/lib/nvidia-smi": samples.NVIDIA_4090}))
    assert len(found) == 1


def test_no_devices_is_none() -> None:
    assert nvidia.find(host({"nvidia-smi": "No devices were found\n"})) == []


def test_a_driver_that_fails_is_not_readable() -> None:
    why = NotReadable("nvidia-smi failed with status 9: NVIDIA-SMI has failed because it couldn't")
    with pytest.raises(NotReadable, match="status 9"):
        nvidia.find(host({"nvidia-smi": why}))


def test_xml_with_entities_is_refused() -> None:
    with pytest.raises(NotReadable, match="entities"):
        nvidia.parse_mig('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>')


# AMD


def test_amd_smi_of_rocm_6_is_a_list_with_warnings_before_it() -> None:
    assert amd.parse_amd_smi(samples.AMD_SMI_6_STATIC, samples.AMD_SMI_6_METRIC) == [
        Found("rocm", "AMD Instinct MI300X", 196592 * MIB, (196592 - 17153) * MIB, "amd-smi")
    ]


def test_amd_smi_of_rocm_7_has_apus_whose_memory_is_main_memory() -> None:
    card, apu = amd.parse_amd_smi(samples.AMD_SMI_7_STATIC, samples.AMD_SMI_7_METRIC)
    assert (card.total_bytes, card.free_bytes) == (32704 * MIB, 32000 * MIB)
    assert not card.unified
    assert (apu.name, apu.unified, apu.total_bytes) == ("AMD Radeon 8060S Graphics", True, None)


def test_rocm_smi_of_every_age() -> None:
    (old,) = amd.parse_rocm_smi(samples.ROCM_SMI_5)
    assert (old.name, old.total_bytes) == ("Navi 21 [Radeon RX 6800]", 17163091968)
    card, apu = amd.parse_rocm_smi(samples.ROCM_SMI_6)
    assert (card.name, card.free_bytes) == ("Radeon RX 7900 XT", 21458059264 - 27856896)
    assert apu.unified


SYSFS_AMD = {
    "/sys/class/drm/card0/device/vendor": "0x8086\n",
    "/sys/class/drm/card1/device/vendor": "0x1002\n",
    "/sys/class/drm/card1/device/device": "0x744c\n",
    "/sys/class/drm/card1/device/mem_info_vram_total": "25753026560\n",
    "/sys/class/drm/card1/device/mem_info_vram_used": "1753026560\n",
    "/sys/class/drm/card1/device/mem_info_gtt_total": "33000000000\n",
    "/sys/class/drm/card1-DP-1/status": "connected\n",
}


def test_without_programs_the_driver_is_read() -> None:
    assert amd.find(host(files=SYSFS_AMD)) == [
        Found("rocm", "AMD GPU 0x744c", 25753026560, 24000000000, "sysfs")
    ]


def test_a_program_that_fails_does_not_hide_what_the_driver_says() -> None:
    broken = {"amd-smi": NotReadable("amd-smi did not answer within 5 s")}
    assert len(amd.find(host(broken, SYSFS_AMD))) == 1
    with pytest.raises(NotReadable, match="amd-smi"):
        amd.find(host(broken))


def test_hip_visible_devices_hides() -> None:
    found = amd.find(host({"rocm-smi": samples.ROCM_SMI_6}, HIP_VISIBLE_DEVICES="1"))
    assert [bool(one.hidden) for one in found] == [False, True]
    assert found[0].unified


@pytest.mark.parametrize("setting", ["0,0", "1,0,1", "0,-1,1", "0,7,1", "-1", ""])
@pytest.mark.parametrize(
    ("program", "text", "variable"),
    [
        ("nvidia-smi", samples.NVIDIA_TWO_OLD, "CUDA_VISIBLE_DEVICES"),
        ("rocm-smi", samples.ROCM_SMI_6, "HIP_VISIBLE_DEVICES"),
        ("rocm-smi", samples.ROCM_SMI_6, "ROCR_VISIBLE_DEVICES"),
    ],
)
def test_a_device_is_listed_once_and_what_is_not_there_ends_the_list(
    setting: str, program: str, text: str, variable: str
) -> None:
    find = nvidia.find if program == "nvidia-smi" else amd.find
    names = [one.name for one in find(host({program: text}))]
    found = find(host({program: text}, **{variable: setting}))
    shown = {"0,0": [0], "1,0,1": [1, 0], "0,-1,1": [0], "0,7,1": [0]}.get(setting, [])
    assert [one.name for one in found if not one.hidden] == [names[index] for index in shown]
    assert sorted(one.name for one in found) == sorted(names)
    assert all(variable in one.hidden for one in found if one.hidden)


def test_hip_counts_what_rocr_leaves() -> None:
    both = {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}
    found = amd.find(host({"rocm-smi": samples.ROCM_SMI_6}, **both))
    assert [bool(one.hidden) for one in found] == [False, True]
    assert found[0].unified
    found = amd.find(host({"rocm-smi": samples.ROCM_SMI_6}, **both | {"HIP_VISIBLE_DEVICES": "1"}))
    assert all(one.hidden for one in found)


def test_uuids_of_amd_gpus_only_the_driver_knows() -> None:
    found = amd.find(host({"rocm-smi": samples.ROCM_SMI_6}, ROCR_VISIBLE_DEVICES="GPU-abc"))
    assert not any(one.hidden for one in found)


# Intel


def test_xpu_smi_with_and_without_memory() -> None:
    assert intel.parse_xpu_smi(samples.XPU_SMI_FULL) == [
        Found("sycl", "Intel(R) Graphics [0xe211]", 25669140480, 25447600128, "xpu-smi")
    ]
    assert intel.parse_xpu_smi(samples.XPU_SMI_SHORT)[0].unified


def test_intel_cards_in_sysfs() -> None:
    files = {
        "/sys/class/drm/card0/device/vendor": "0x8086\n",
        "/sys/class/drm/card0/device/device": "0x46a6\n",
        "/sys/class/drm/card1/device/vendor": "0x8086\n",
        "/sys/class/drm/card1/device/device": "0x56a0\n",
        "/sys/class/drm/card1/lmem_total_bytes": "17095983104\n",
        "/sys/class/drm/card1/lmem_avail_bytes": "16000000000\n",
    }
    integrated, card = intel.find(host(files=files))
    assert (integrated.name, integrated.unified) == ("Intel GPU 0x46a6", True)
    assert (card.total_bytes, card.free_bytes) == (17095983104, 16000000000)


# Apple


@pytest.mark.parametrize(
    ("memory_gib", "megabytes"),
    [(8, 5726.63), (16, 11453.25), (32, 22906.50), (36, 28991.03), (64, 51539.61)],
)
def test_the_working_set_follows_what_llama_cpp_logs(memory_gib: int, megabytes: float) -> None:
    assert apple.working_set_bytes(memory_gib * GIB) / 1e6 == pytest.approx(megabytes, abs=0.01)


def mac(wired_mb: int = 0) -> Host:
    memory = f"hw.memsize: {36 * GIB}\niogpu.wired_limit_mb: {wired_mb}\n"
    return host({"sysctl": memory, "system_profiler": samples.DISPLAYS_M3_PRO}, os="Darwin")


def test_an_apple_gpu_takes_main_memory_up_to_its_limit() -> None:
    (found,) = apple.find(mac())
    assert (found.kind, found.name, found.cores) == ("metal", "Apple M3 Pro", 18)
    device = as_device("MTL0", found, ram_total_bytes=36 * GIB, ram_free_bytes=30 * GIB)
    assert (device.total_bytes, device.free_bytes) == (27 * GIB, 27 * GIB)
    device = as_device("MTL0", found, ram_total_bytes=36 * GIB, ram_free_bytes=20 * GIB)
    assert device.free_bytes == 20 * GIB


def test_the_owner_may_have_moved_the_limit() -> None:
    (found,) = apple.find(mac(wired_mb=32768))
    assert found.total_bytes == 32 * GIB


def test_gpus_of_intel_macs_are_not_planned_with() -> None:
    assert apple.parse_displays(samples.DISPLAYS_INTEL_MAC, 8 * GIB) == []


def test_there_is_no_apple_gpu_on_linux() -> None:
    assert apple.find(host({"system_profiler": samples.DISPLAYS_M3_PRO})) == []


# Vulkan


def test_the_full_listing_has_memory_and_the_summary_has_not() -> None:
    (found,) = vulkan.parse_vulkaninfo(samples.VULKAN_FULL)
    assert found.name == "NVIDIA GeForce RTX 3070"
    assert (found.total_bytes, found.free_bytes) == (8 * GIB, 8005484544)
    (brief,) = vulkan.parse_vulkaninfo(samples.VULKAN_SUMMARY)
    assert (brief.name, brief.total_bytes) == ("AMD Radeon RX 6600 XT", None)


def test_other_indentation_and_missing_budgets() -> None:
    (found,) = vulkan.parse_vulkaninfo(samples.VULKAN_RADV_OLD)
    assert (found.total_bytes, found.free_bytes) == (4120903680, 3502768128)


def test_integrated_gpus_are_unified_and_software_is_no_gpu() -> None:
    (found,) = vulkan.parse_vulkaninfo(samples.VULKAN_IGPU)
    assert (found.unified, found.total_bytes) == (True, None)


def test_a_device_another_probe_found_is_not_listed_twice() -> None:
    (seen,) = vulkan.parse_vulkaninfo(samples.VULKAN_FULL)
    (other,) = vulkan.parse_vulkaninfo(samples.VULKAN_IGPU)
    card = nvidia.find(host({"nvidia-smi": samples.NVIDIA_4090}))
    assert vulkan.without_duplicates([*card, seen, other]) == [*card, other]
    assert vulkan.without_duplicates([seen, other]) == [seen, other]


# Anything


PARSERS: list[Callable[[str], object]] = [
    nvidia.parse_query, nvidia.parse_mig, nvidia.parse_listing, amd.parse_rocm_smi,
    intel.parse_xpu_smi, vulkan.parse_vulkaninfo, lambda text: amd.parse_amd_smi(text, text),
    lambda text: apple.parse_displays(text, GIB),
]  # fmt: skip
SAMPLES = [text for name, text in vars(samples).items() if name.isupper()]


def reason(parse: Callable[[str], object], text: str) -> str:
    """Why it is not readable; empty when it is."""
    try:
        parse(text)
    except NotReadable as error:
        return str(error)
    return ""


@given(st.sampled_from(PARSERS), st.text(max_size=200))
def test_garbage_is_not_readable_and_never_worse(parse: Callable[[str], object], text: str) -> None:
    assert reason(parse, text).isprintable()


def test_a_listing_of_vulkan_whose_devices_are_cut_off_has_none() -> None:
    assert (
        list(vulkan.parse_vulkaninfo("==========\nVULKANINFO\n=GPU0:\n\tvendorID = 0x8086\n")) == []
    )


@given(st.sampled_from(PARSERS), st.sampled_from(SAMPLES), st.data())
def test_so_are_samples_that_were_cut_or_changed(
    parse: Callable[[str], object], text: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 40))
    put = data.draw(st.text(alphabet='{}[]",:0123456789 N/A<>=\n', max_size=12))
    with contextlib.suppress(NotReadable):
        parse(text[:at] + put + text[at + length :])


keys = st.sampled_from([
    "gpu_data", "gpu", "asic", "market_name", "vram", "size", "value", "unit", "mem_usage",
    "total_vram", "card0", "card1", "VRAM Total Memory (B)", "Card Series", "device_list",
    "memory_physical_size_byte", "SPDisplaysDataType", "spdisplays_vendor", "sppci_cores",
])  # fmt: skip
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["Apple", "N/A"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=15
)


@given(st.sampled_from(PARSERS), values)
def test_json_of_any_shape(parse: Callable[[str], object], value: object) -> None:
    with contextlib.suppress(NotReadable):
        parse(json.dumps(value))
