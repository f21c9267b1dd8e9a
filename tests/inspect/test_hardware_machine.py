"""The machine as a whole, and the engine's own view of it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from okno.core.machine import Device
from okno.engines.process import worker_environment
from okno.inspect.hardware import engine
from okno.inspect.hardware.devices import Found
from okno.inspect.hardware.engine import EngineDevice, EngineView, backends_from, parse_view
from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.machine import Survey, survey, this_machine
from okno.inspect.hardware.overrides import Overrides
from okno.inspect.hardware.ram import find_ram
from okno.inspect.hardware.report import bound, hardware_body, surveyed, what_if
from tests.inspect import hardware_samples as samples
from tests.inspect.test_hardware_gpus import host

MIB, GIB = 1 << 20, 1 << 30
MEMINFO = """MemTotal:       32768000 kB
MemFree:         1000000 kB
MemAvailable:   20480000 kB
SwapTotal:       2048000 kB
SwapFree:        1024000 kB
"""
V2 = {
    "/proc/meminfo": MEMINFO,
    "/proc/self/cgroup": "0::/app\n",
    "/proc/self/mountinfo": "29 22 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n",
    "/sys/fs/cgroup/app/memory.max": f"{8 * GIB}\n",
    "/sys/fs/cgroup/app/memory.current": f"{2 * GIB}\n",
    "/sys/fs/cgroup/app/memory.stat": "inactive_file 0\n",
}


def test_ram_total_free_and_swap() -> None:
    ram = find_ram(host(files={"/proc/meminfo": MEMINFO}))
    assert (ram.total_bytes, ram.free_bytes) == (32768000 << 10, 20480000 << 10)
    assert (ram.swap_total_bytes, ram.swap_free_bytes) == (2048000 << 10, 1024000 << 10)
    assert (ram.bound_by, ram.limit_bytes) == ("machine", None)


def test_a_cgroup_bounds_ram_and_is_named() -> None:
    ram = find_ram(host(files=V2))
    assert (ram.free_bytes, ram.bound_by, ram.limit_bytes) == (
        6 * GIB, "/sys/fs/cgroup/app", 8 * GIB,
    )  # fmt: skip


def test_a_limit_above_the_machine_is_none() -> None:
    ram = find_ram(host(files={**V2, "/sys/fs/cgroup/app/memory.max": f"{64 * GIB}\n"}))
    assert ram.limit_bytes is None


def test_elsewhere_psutil_counts() -> None:
    ram = find_ram(host(os="Darwin"))
    assert 0 < ram.free_bytes <= ram.total_bytes


def test_this_machine_is_the_same_twice() -> None:
    first, second = this_machine(), this_machine()
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 16
    assert first.ram.free_bytes <= first.ram.total_bytes


def test_all_probes_speak_and_vulkan_adds_only_what_is_new() -> None:
    answers = {
        "nvidia-smi": samples.NVIDIA_4090,
        "rocm-smi": samples.ROCM_SMI_6,
        "xpu-smi": samples.XPU_SMI_SHORT,
        "vulkaninfo": samples.VULKAN_FULL,
        "lscpu": samples.LSCPU_2_34,
    }
    machine = survey(host=host(answers, {"/proc/meminfo": MEMINFO})).machine
    assert [one.id for one in machine.devices] == ["CUDA0", "ROCm0", "ROCm1", "SYCL0"]
    assert machine.cpu.name == "AMD Ryzen 7 3700X 8-Core Processor"
    apu = machine.devices[2]
    assert (apu.unified, apu.free_bytes) == (True, machine.ram.free_bytes)


APU_ONLY = "llama.cpp uses an integrated GPU only where there is no other"


def test_an_integrated_gpu_is_used_only_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "backends", lambda: frozenset({"rocm"}))
    answers = {"nvidia-smi": samples.NVIDIA_4090, "rocm-smi": samples.ROCM_SMI_6}
    machine = survey(host=host(answers, {"/proc/meminfo": MEMINFO})).machine
    assert [one.id for one in machine.usable_devices] == ["ROCm0"]
    assert machine.devices[2].unusable == APU_ONLY
    alone = survey(host=host(answers, {"/proc/meminfo": MEMINFO}, HIP_VISIBLE_DEVICES="1")).machine
    (apu,) = alone.usable_devices  # the other cards are hidden, or this build cannot use them
    assert (apu.id, apu.unified) == ("ROCm0", True)
    with_kind = what_if(Survey(machine), Overrides(device="rocm")).machine
    assert [one.id for one in with_kind.usable_devices] == ["ROCm0"]


def test_nor_is_one_that_the_engine_lists_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    card = EngineDevice("Vulkan0", "Card", "gpu", 8 * GIB, 8 * GIB)
    small = EngineDevice("Vulkan1", "Chip", "igpu", 8 * GIB, 8 * GIB)
    for listed, usable in (((card, small), ["Vulkan0"]), ((small,), ["Vulkan1"])):
        view = EngineView("1", "", listed)
        monkeypatch.setattr(engine, "ask", lambda view=view: (view, ()))
        machine = survey(with_engine=True, host=host()).machine
        assert [one.id for one in machine.usable_devices] == usable


def test_one_broken_probe_leaves_the_others() -> None:
    answers = {
        "nvidia-smi": NotReadable("nvidia-smi did not answer within 5 s"),
        "rocm-smi": samples.ROCM_SMI_5,
    }
    found = survey(host=host(answers, {"/proc/meminfo": MEMINFO}))
    assert [one.kind for one in found.machine.devices] == ["rocm"]
    assert found.notes == (
        "NVIDIA devices not readable: nvidia-smi did not answer within 5 s.",
    )  # fmt: skip


def test_a_mac_is_one_chip_with_one_memory() -> None:
    def mac(args: object) -> str | None:
        return {"sysctl": samples.SYSCTL_M1_PRO, "system_profiler": samples.DISPLAYS_M3_PRO}.get(
            args[0]  # type: ignore[index]
        )

    machine = survey(host=Host("Darwin", "arm64", mac)).machine
    (gpu,) = machine.devices
    assert (gpu.id, gpu.unified, gpu.bandwidth_bytes_s) == ("MTL0", True, 150e9)
    assert machine.cpu.name == "Apple M1 Pro"
    assert gpu.total_bytes <= machine.ram.total_bytes


# The engine


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["libggml.so", "libggml-base.so", "libggml-cpu.so", "libllama.so"], set()),
        (["libggml.so", "libggml-cuda.so.0", "libggml-cpu.so"], {"cuda"}),
        (["libggml.dylib", "libggml-metal.dylib", "libggml-blas.dylib"], {"metal"}),
        (["ggml.dll", "ggml-vulkan.dll", "ggml-hip.dll"], {"vulkan", "rocm"}),
    ],
)
def test_backends_are_seen_by_their_libraries(names: list[str], kinds: set[str]) -> None:
    assert backends_from(names) == kinds


def test_without_libraries_nothing_is_known_of_backends() -> None:
    assert backends_from(["readme.txt"]) is None


def test_this_build_has_no_backend_but_the_cpu() -> None:
    assert engine.backends() == frozenset()


def test_what_was_measured_is_kept_by_build_and_by_amx(tmp_path, monkeypatch):
    """Where there is AMX: elsewhere nothing is kept from the engine, and a calibration stays."""
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    monkeypatch.delenv("OKNO_AMX", raising=False)
    engine._build.cache_clear()
    bare = engine.engine_name()
    (tmp_path / "libggml-cpu.so").write_bytes(b"kernels")
    engine._build.cache_clear()
    built = engine.engine_name()
    assert built.startswith(bare)
    assert built != bare
    monkeypatch.setenv("OKNO_AMX", "0")
    for has_amx, name in ((False, built), (True, f"{built} without AMX")):
        monkeypatch.setattr(engine, "machine_has_amx", lambda has=has_amx: has)
        assert engine.engine_name() == name
    engine._build.cache_clear()


def test_the_engine_is_asked_in_another_process() -> None:
    view, notes = engine.ask()
    assert notes == ()
    assert view is not None
    (cpu,) = view.devices
    assert (cpu.name, cpu.type) == ("CPU", "cpu")
    assert cpu.total_bytes > 0


def test_an_engine_that_cannot_be_asked_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    view, (note,) = engine.ask()
    assert view is None
    assert note.startswith("The engine's own view is not readable: llama.cpp ended with status 1")


def test_a_child_that_hangs_or_prints_nonsense_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(engine, "TIMEOUT_S", 0.2)
    assert "did not answer within 0.2 s" in engine.ask()[1][0]
    script.write_text("#!/bin/sh\necho hello\n")
    monkeypatch.setattr(engine, "TIMEOUT_S", 30.0)
    assert "something other than its JSON" in engine.ask()[1][0]


def test_only_the_last_line_of_the_child_counts() -> None:
    view = parse_view(
        'ggml_cuda_init: found 1 device\n{"version": "1", "system": "", "devices": []}'
    )
    assert view == EngineView("1", "", ())


RTX = Device("CUDA0", "cuda", "NVIDIA GeForce RTX 4090", 24564 * MIB, 23028 * MIB, source="smi")


def test_the_engine_confirms_with_its_own_sizes() -> None:
    seen = EngineDevice("CUDA0", "NVIDIA GeForce RTX 4090", "gpu", 22 * GIB, 24 * GIB)
    (device,) = engine.merged([RTX], EngineView("1", "", (seen,)))
    assert (device.total_bytes, device.free_bytes, device.unusable) == (24 * GIB, 22 * GIB, "")
    assert device.source == "smi, engine"


def test_what_the_engine_does_not_list_it_cannot_use() -> None:
    (device,) = engine.merged([RTX], EngineView("1", "", ()))
    assert "no CUDA backend" in device.unusable


def test_what_only_the_engine_lists_is_a_device() -> None:
    seen = (
        EngineDevice("Vulkan0", "Some GPU", "igpu", 3 * GIB, 4 * GIB),
        EngineDevice("BLAS", "Accelerate", "accel", 0, 0),
        EngineDevice("CANN0", "Ascend", "gpu", GIB, GIB),
    )
    (device,) = engine.merged([], EngineView("1", "", seen))
    assert (device.id, device.kind, device.unified) == ("Vulkan0", "vulkan", True)


FASTEST_FIRST = EngineView("1", "", (
    EngineDevice("CUDA0", "NVIDIA GeForce RTX 4090", "gpu", 22 * GIB, 24 * GIB),
    EngineDevice("CUDA1", "Tesla P40", "gpu", 20 * GIB, 22 * GIB),
))  # fmt: skip


def test_devices_are_matched_by_name_before_their_number() -> None:
    p40 = replace(RTX, name="Tesla P40")
    found = engine.merged([p40, replace(RTX, id="CUDA1")], FASTEST_FIRST)
    assert [(one.name, one.id, one.total_bytes) for one in found] == [
        ("Tesla P40", "CUDA1", 22 * GIB), ("NVIDIA GeForce RTX 4090", "CUDA0", 24 * GIB),
    ]  # fmt: skip


def test_equal_cards_keep_their_numbers_and_other_names_go_by_number() -> None:
    seen = tuple(EngineDevice(f"CUDA{n}", RTX.name, "gpu", n * GIB, 24 * GIB) for n in (1, 0))
    found = engine.merged([RTX, replace(RTX, id="CUDA1")], EngineView("1", "", seen))
    assert [(one.id, one.free_bytes) for one in found] == [("CUDA0", 0), ("CUDA1", GIB)]
    mine = replace(RTX, name="as another program calls it")
    (device,) = engine.merged([mine], EngineView("1", "", seen[1:]))
    assert (device.id, device.source) == ("CUDA0", "smi, engine")


def test_a_name_of_another_backend_is_another_device() -> None:
    seen = EngineDevice("Vulkan0", RTX.name, "gpu", 22 * GIB, 24 * GIB)
    ours, vulkan = engine.merged([RTX], EngineView("1", "", (seen,)))
    assert "CUDA" in ours.unusable
    assert (vulkan.id, vulkan.unusable) == ("Vulkan0", "")


def test_no_two_devices_have_one_id() -> None:
    p40 = replace(RTX, name="Tesla P40")
    only = EngineView("1", "", FASTEST_FIRST.devices[:1])
    found = engine.merged([p40, replace(RTX, id="CUDA1")], only)
    assert [(one.id, bool(one.unusable)) for one in found] == [
        ("CUDA0 unlisted", True), ("CUDA0", False),
    ]  # fmt: skip


@pytest.mark.parametrize(("own", "order"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST",) * 2])
def test_the_engine_numbers_devices_as_nvidia_smi_does_unless_told_otherwise(
    own: str | None, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if own:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", own)
    script = tmp_path / "python"
    said = '{"version": "$CUDA_DEVICE_ORDER", "system": "", "devices": []}'
    script.write_text(f"#!/bin/sh\ncat <<END\n{said}\nEND\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    view, _ = engine.ask()
    assert view is not None
    assert view.version == order
    assert worker_environment()["CUDA_DEVICE_ORDER"] == order


def test_older_engines_call_metal_by_another_name() -> None:
    mine = replace(RTX, id="MTL0", kind="metal", unified=True, free_bytes=9 * GIB)
    seen = EngineDevice("Metal", "Apple M1", "gpu", 10 * GIB, 11 * GIB)
    (device,) = engine.merged([mine], EngineView("1", "", (seen,)))
    assert (device.id, device.free_bytes, device.unusable) == ("MTL0", 9 * GIB, "")


def test_vulkan_reaches_what_its_own_backend_would() -> None:
    card = Found("cuda", "NVIDIA GeForce RTX 4090", GIB, GIB, "smi")
    assert engine.through_backend(card, frozenset({"vulkan"})).kind == "vulkan"
    assert engine.through_backend(card, frozenset({"vulkan", "cuda"})).kind == "cuda"
    assert engine.through_backend(card, None).kind == "cuda"
    assert engine.through_backend(card, frozenset()).kind == "cuda"


# The report


def test_the_body_is_plain_json_with_the_fingerprint() -> None:
    body = hardware_body(surveyed(Overrides(), with_engine=False))
    assert body["machine"]["fingerprint"] == this_machine().fingerprint
    assert body["engine"] is None
    assert body["bound"].startswith("A model runs on the CPU")


def test_the_engine_is_not_asked_about_a_machine_that_is_not_here() -> None:
    found = surveyed(Overrides(cores=3), with_engine=True)
    assert found.engine is None
    assert found.machine.cpu.usable_cores == 3


def test_the_sentence_names_what_bounds() -> None:
    found = survey(host=host({}, V2))
    assert bound(found.machine) == (
        "A model runs on the CPU, within main memory, 6.0 GiB free of 31.2 GiB (bound by the limit "
        "of 8.0 GiB of the cgroup /sys/fs/cgroup/app)."
    )
    limited = replace(found.machine, ram=replace(found.machine.ram, bound_by="RLIMIT_AS"))
    assert "ulimit" in bound(limited)
    with_gpu = what_if(found, Overrides(device="cuda", memory_bytes=8 * GIB)).machine
    assert "7.5 GiB free of 8.0 GiB; what does not fit there goes to main" in bound(with_gpu)


def test_it_needs_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name != "PATH":
            monkeypatch.delenv(name)
    assert this_machine().ram.total_bytes > 0
