"""The CPU on macOS: sysctl."""

from __future__ import annotations

from collections.abc import Mapping

from okno.inspect.hardware.host import Host, NotReadable
from okno.inspect.hardware.processor_facts import CpuFacts, kernel_simd, whole

NAMES = ("hw", "machdep.cpu")
# hw.optional names to the names Linux has for the same instructions.
SIMD = {
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.supplementalsse3": "ssse3",
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.bmi2": "bmi2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
    "hw.optional.avx512vl": "avx512vl",
}


def find(host: Host) -> CpuFacts:
    said = host.call(["sysctl", *NAMES])
    if said is None:
        raise NotReadable("there is no sysctl")
    return cpu_from(parse_sysctl(said))


def parse_sysctl(text: str) -> dict[str, str]:
    """`name: value` lines."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def cpu_from(values: Mapping[str, str]) -> CpuFacts:
    """L1 and L2 of Apple chips are told per performance level, L2 for each cluster of cores."""
    simd = {linux for name, linux in SIMD.items() if values.get(name) == "1"}
    physical = whole(values.get("hw.physicalcpu"))
    return CpuFacts(
        name=values.get("machdep.cpu.brand_string", ""),
        physical_cores=physical,
        logical_cores=whole(values.get("hw.logicalcpu")),
        simd=kernel_simd(simd),
        l1d_bytes=_l1d(values) or whole(values.get("hw.l1dcachesize")) * physical,
        l2_bytes=_l2(values) or whole(values.get("hw.l2cachesize")) * physical,
        l3_bytes=whole(values.get("hw.l3cachesize")),
    )


def _l1d(values: Mapping[str, str]) -> int:
    return sum(
        whole(values.get(f"hw.perflevel{n}.l1dcachesize"))
        * whole(values.get(f"hw.perflevel{n}.physicalcpu"))
        for n in _levels(values)
    )


def _l2(values: Mapping[str, str]) -> int:
    total = 0
    for n in _levels(values):
        cores = whole(values.get(f"hw.perflevel{n}.physicalcpu"))
        sharing = whole(values.get(f"hw.perflevel{n}.cpusperl2")) or cores or 1
        total += whole(values.get(f"hw.perflevel{n}.l2cachesize")) * -(-cores // sharing)
    return total


def _levels(values: Mapping[str, str]) -> range:
    return range(min(whole(values.get("hw.nperflevels")), 8))
