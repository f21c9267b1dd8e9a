"""The CPU, from what Linux, macOS and Windows say of it."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.inspect.hardware import processor_linux, processor_mac, processor_windows
from okno.inspect.hardware.host import Host, NotReadable, this_host
from okno.inspect.hardware.processor import find_cpu
from okno.inspect.hardware.processor_linux import count_list, parse_cpuinfo, parse_lscpu, parse_size
from tests.inspect import hardware_samples as samples

KIB, MIB = 1 << 10, 1 << 20


def linux(files: dict[str, str], lscpu: str | None = None) -> Host:
    """A host with these files; folders are those the paths imply."""

    def names(folder: PurePosixPath) -> list[str]:
        start = f"{folder}/"
        return sorted({p.removeprefix(start).split("/")[0] for p in files if p.startswith(start)})

    return Host(
        "Linux", "x86_64", lambda args: lscpu, lambda path: files.get(str(path)), names
    )  # fmt: skip


def cache(cpu: int, index: int, level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    folder = f"/sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    values = {"level": str(level), "type": kind, "size": size, "shared_cpu_list": shared}
    return {f"{folder}/{name}": f"{value}\n" for name, value in values.items()}


def test_cores_are_counted_once_however_many_threads_they_run() -> None:
    facts = parse_cpuinfo(samples.CPUINFO_RYZEN)
    assert (facts.physical_cores, facts.logical_cores) == (2, 4)
    assert facts.name == "AMD Ryzen 7 5800X3D 8-Core Processor"


def test_simd_is_what_kernels_use_in_the_order_of_power() -> None:
    facts = parse_cpuinfo(samples.CPUINFO_XEON)
    assert facts.simd[:4] == ("ssse3", "avx", "f16c", "fma")
    assert facts.simd[-3:] == ("amx_tile", "amx_int8", "amx_bf16")
    assert "vme" not in facts.simd


def test_arm_has_features_and_no_name() -> None:
    facts = parse_cpuinfo(samples.CPUINFO_N1)
    assert facts.simd == ("neon", "asimdhp", "asimddp")
    assert (facts.name, facts.logical_cores, facts.physical_cores) == ("", 2, 0)


def test_a_board_description_is_no_processor() -> None:
    facts = parse_cpuinfo(samples.CPUINFO_PI_ZERO)
    assert facts.logical_cores == 1
    assert facts.name == "ARMv6-compatible processor rev 7 (v6l)"


def test_risc_v_names_its_microarchitecture() -> None:
    assert parse_cpuinfo(samples.CPUINFO_RISCV).name == "thead,c906"


def test_lscpu_before_2_38_is_flat() -> None:
    facts = parse_lscpu(samples.LSCPU_2_34)
    assert (facts.physical_cores, facts.logical_cores) == (8, 16)
    assert (facts.l1d_bytes, facts.l2_bytes, facts.l3_bytes) == (256 * KIB, 4 * MIB, 32 * MIB)


def test_lscpu_since_2_38_is_nested_and_knows_arm_names() -> None:
    facts = parse_lscpu(samples.LSCPU_2_39_GRACE)
    assert (facts.name, facts.physical_cores, facts.numa_nodes) == ("Neoverse-V2", 72, 9)
    assert (facts.l2_bytes, facts.l3_bytes) == (75497472, 119537664)
    assert "sve2" in facts.simd


def test_cores_of_several_kinds_are_added() -> None:
    facts = parse_lscpu(samples.LSCPU_BIG_LITTLE)
    assert facts.physical_cores == 8
    assert facts.name == "Cortex-A55 + Cortex-A76"


def test_a_cache_shared_by_cpus_counts_once_and_instruction_caches_never() -> None:
    files = {"/proc/cpuinfo": samples.CPUINFO_XEON, "/sys/devices/system/node/online": "0-1\n"}
    for cpu in (0, 1):
        files |= cache(cpu, 0, 1, "Data", "48K", str(cpu))
        files |= cache(cpu, 1, 1, "Instruction", "64K", str(cpu))
        files |= cache(cpu, 2, 2, "Unified", "2048K", str(cpu))
        files |= cache(cpu, 3, 3, "Unified", "491520K", "0-1")
    facts = processor_linux.find(linux(files))
    assert facts.l1d_bytes == 96 * KIB
    assert facts.l2_bytes == 4 * MIB
    assert facts.l3_bytes == 480 * MIB
    assert facts.numa_nodes == 2


def test_lscpu_is_asked_only_for_what_files_leave_open() -> None:
    facts = processor_linux.find(
        linux({"/proc/cpuinfo": samples.CPUINFO_N1}, samples.LSCPU_2_39_GRACE)
    )
    assert (facts.name, facts.logical_cores, facts.physical_cores) == ("Neoverse-V2", 2, 72)
    assert facts.simd == ("neon", "asimdhp", "asimddp")


def test_an_lscpu_that_fails_takes_nothing_away() -> None:
    def broken(args: object) -> str:
        raise NotReadable("lscpu did not answer within 5 s")

    files = {"/proc/cpuinfo": samples.CPUINFO_N1}
    cpu, notes = find_cpu(replace(linux(files), call=broken))
    assert (cpu.logical_cores, cpu.simd, notes) == (2, ("neon", "asimdhp", "asimddp"), ())
    assert processor_linux.find(linux(files, "no JSON")).logical_cores == 2
    with pytest.raises(NotReadable, match="lscpu did not answer"):
        processor_linux.find(replace(linux({}), call=broken))


def test_apple_caches_are_added_over_clusters() -> None:
    facts = processor_mac.cpu_from(processor_mac.parse_sysctl(samples.SYSCTL_M1_PRO))
    assert facts.name == "Apple M1 Pro"
    assert facts.l1d_bytes == (8 * 128 + 2 * 64) * KIB
    assert facts.l2_bytes == (2 * 12 + 4) * MIB
    assert facts.simd == ("neon", "asimddp")


def test_an_intel_mac_has_levels_per_core() -> None:
    facts = processor_mac.cpu_from(processor_mac.parse_sysctl(samples.SYSCTL_INTEL_MAC))
    assert (facts.physical_cores, facts.logical_cores) == (6, 12)
    assert (facts.l2_bytes, facts.l3_bytes) == (6 * 256 * KIB, 12 * MIB)
    assert facts.simd == ("avx", "f16c", "fma", "avx2")


@pytest.mark.parametrize(
    ("text", "cores", "threads", "l3_mib"),
    [(samples.CIM_ONE, 16, 24, 30), (samples.CIM_TWO, 32, 64, 44)],
)
def test_windows_sockets_are_added(text: str, cores: int, threads: int, l3_mib: int) -> None:
    facts = processor_windows.parse_cim(text)
    assert (facts.physical_cores, facts.logical_cores) == (cores, threads)
    assert facts.l3_bytes == l3_mib * MIB


def test_wmic_says_the_same_in_lines() -> None:
    facts = processor_windows.parse_wmic(samples.WMIC)
    assert facts.name == "AMD Ryzen 7 4800H with Radeon Graphics"
    assert (facts.physical_cores, facts.logical_cores, facts.l2_bytes) == (8, 16, 4 * MIB)


def test_sizes_as_lscpu_and_sysfs_write_them() -> None:
    assert [parse_size(text) for text in ("48K", "1.5 MiB", "98304 (2 instances)", "32M", "")] == [
        48 * KIB, 3 * MIB // 2, 98304, 32 * MIB, 0,
    ]  # fmt: skip


def test_lists_of_cpus() -> None:
    assert [count_list(text) for text in ("0", "0-3,8", "", "x", "3-x")] == [1, 5, 0, 0, 0]


def test_what_cannot_be_read_becomes_a_note_and_a_count() -> None:
    def broken(args: object) -> str:
        raise NotReadable("sysctl did not answer within 5 s")

    cpu, notes = find_cpu(Host("Darwin", "arm64", broken))
    assert notes == ("CPU not readable: sysctl did not answer within 5 s.",)
    assert (cpu.name, cpu.architecture) == ("unknown", "aarch64")
    assert cpu.logical_cores >= cpu.usable_cores >= 1


def test_this_machine_has_a_cpu() -> None:
    cpu, notes = find_cpu(this_host())
    assert notes == ()
    assert cpu.name
    assert 1 <= cpu.usable_cores <= cpu.logical_cores


@given(st.text(max_size=300))
def test_no_text_is_too_strange(text: str) -> None:
    parse_cpuinfo(text)
    assert parse_size(text) >= 0
    assert count_list(text) >= 0
    processor_mac.cpu_from(processor_mac.parse_sysctl(text))
    for parse in (parse_lscpu, processor_windows.parse_cim, processor_windows.parse_wmic):
        with contextlib.suppress(NotReadable):
            parse(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["lscpu", "field", "data", "children", "Name", "NumberOfCores"]), inner
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_no_json_is_too_strange(value: object) -> None:
    for parse in (parse_lscpu, processor_windows.parse_cim):
        try:
            facts = parse(json.dumps(value))
        except NotReadable:
            continue
        assert facts.physical_cores >= 0
        assert not math.isnan(facts.l3_bytes)
