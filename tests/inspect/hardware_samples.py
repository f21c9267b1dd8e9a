"""Output of programs and files, captured on machines of many kinds (shortened) or as issue threads
of their projects show it."""

from __future__ import annotations

# /proc/cpuinfo ---------------------------------------------------------------------------------
# ruff: noqa: E501 - long lines are what the programs print
CPUINFO_XEON = """processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 167
model name	: Intel(R) Xeon(R) Processor
cpu MHz		: 2599.998
cache size	: 491520 KB
physical id	: 0
siblings	: 2
core id		: 0
cpu cores	: 2
flags		: fpu vme sse sse2 ss ht syscall nx pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 f16c avx2 avx bmi2 avx512f avx512dq avx512bw avx512vl avx_vnni avx512_bf16 avx512vbmi avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8
bogomips	: 5199.99

processor	: 1
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) Processor
physical id	: 0
core id		: 1
flags		: fpu vme sse sse2

"""
CPUINFO_RYZEN = "\n\n".join(
    f"""processor	: {cpu}
vendor_id	: AuthenticAMD
model name	: AMD Ryzen 7 5800X3D 8-Core Processor          \nphysical id	: 0
core id		: {cpu % 2}
flags		: fpu ssse3 fma avx f16c avx2 bmi2 rdseed"""
    for cpu in range(4)
)
CPUINFO_N1 = """processor	: 0
BogoMIPS	: 50.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1

processor	: 1
BogoMIPS	: 50.00
Features	: fp asimd evtstrm
CPU part	: 0xd0c
"""
CPUINFO_PI_ZERO = """processor	: 0
model name	: ARMv6-compatible processor rev 7 (v6l)
BogoMIPS	: 697.95
Features	: half thumb fastmult vfp edsp java tls
CPU part	: 0xb76

Hardware	: BCM2835
Model		: Raspberry Pi Zero W Rev 1.1
"""
CPUINFO_RISCV = """processor	: 0
hart		: 0
isa		: rv64imafdcv_zicsr_zifencei_zba_zbb
mmu		: sv39
uarch		: thead,c906
"""

# lscpu -J --------------------------------------------------------------------------------------
LSCPU_2_34 = """{
   "lscpu": [
      {"field":"Architecture:", "data":"x86_64"},
      {"field":"CPU(s):", "data":"16"},
      {"field":"Thread(s) per core:", "data":"2"},
      {"field":"Core(s) per socket:", "data":"8"},
      {"field":"Socket(s):", "data":"1"},
      {"field":"NUMA node(s):", "data":"1"},
      {"field":"Model name:", "data":"AMD Ryzen 7 3700X 8-Core Processor"},
      {"field":"L1d cache:", "data":"256 KiB"},
      {"field":"L1i cache:", "data":"256 KiB"},
      {"field":"L2 cache:", "data":"4 MiB"},
      {"field":"L3 cache:", "data":"32 MiB"},
      {"field":"Flags:", "data":"fpu ssse3 fma avx f16c avx2 bmi2"}
   ]
}
"""
LSCPU_2_39_GRACE = """{
   "lscpu": [
      {
         "field": "Architecture:", "data": "aarch64",
         "children": [{"field": "Byte Order:", "data": "Little Endian"}]
      },{
         "field": "CPU(s):", "data": "72",
         "children": [{"field": "On-line CPU(s) list:", "data": "0-71"}]
      },{
         "field": "Vendor ID:", "data": "ARM",
         "children": [
            {
               "field": "Model name:", "data": "Neoverse-V2",
               "children": [
                  {"field": "Thread(s) per core:", "data": "1"},
                  {"field": "Core(s) per socket:", "data": "72"},
                  {"field": "Socket(s):", "data": "1"},
                  {"field": "Flags:", "data": "fp asimd asimdhp asimddp sve sve2 i8mm bf16"}
               ]
            }
         ]
      },{
         "field": "Caches (sum of all):", "data": null,
         "children": [
            {"field": "L1d:", "data": "4718592 (72 instances)"},
            {"field": "L1i:", "data": "4718592 (72 instances)"},
            {"field": "L2:", "data": "75497472 (72 instances)"},
            {"field": "L3:", "data": "119537664 (1 instance)"}
         ]
      },{
         "field": "NUMA:", "data": null,
         "children": [{"field": "NUMA node(s):", "data": "9"}]
      }
   ]
}
"""
LSCPU_BIG_LITTLE = """{"lscpu": [
  {"field": "CPU(s):", "data": "8"},
  {"field": "Vendor ID:", "data": "ARM", "children": [
    {"field": "Model name:", "data": "Cortex-A55", "children": [
      {"field": "Core(s) per socket:", "data": "4"}, {"field": "Socket(s):", "data": "1"},
      {"field": "Flags:", "data": "fp asimd asimdhp asimddp"}]},
    {"field": "Model name:", "data": "Cortex-A76", "children": [
      {"field": "Core(s) per socket:", "data": "4"}, {"field": "Socket(s):", "data": "1"},
      {"field": "Flags:", "data": "fp asimd asimdhp asimddp"}]}]}
]}"""

# sysctl hw machdep.cpu -------------------------------------------------------------------------
SYSCTL_M1_PRO = """hw.ncpu: 10
hw.memsize: 17179869184
hw.physicalcpu: 10
hw.logicalcpu: 10
hw.perflevel0.physicalcpu: 8
hw.perflevel0.logicalcpu: 8
hw.perflevel0.l1icachesize: 196608
hw.perflevel0.l1dcachesize: 131072
hw.perflevel0.l2cachesize: 12582912
hw.perflevel0.cpusperl2: 4
hw.perflevel0.name: Performance
hw.perflevel1.physicalcpu: 2
hw.perflevel1.logicalcpu: 2
hw.perflevel1.l1dcachesize: 65536
hw.perflevel1.l2cachesize: 4194304
hw.perflevel1.cpusperl2: 2
hw.perflevel1.name: Efficiency
hw.l1dcachesize: 65536
hw.l2cachesize: 4194304
hw.nperflevels: 2
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 0
hw.optional.arm.FEAT_BF16: 0
hw.optional.AdvSIMD: 1
machdep.cpu.brand_string: Apple M1 Pro
"""
SYSCTL_INTEL_MAC = """hw.ncpu: 12
hw.physicalcpu: 6
hw.logicalcpu: 12
hw.l1dcachesize: 32768
hw.l2cachesize: 262144
hw.l3cachesize: 12582912
hw.optional.avx1_0: 1
hw.optional.avx2_0: 1
hw.optional.avx512f: 0
hw.optional.fma: 1
hw.optional.f16c: 1
hw.memsize: 17179869184
machdep.cpu.brand_string: Intel(R) Core(TM) i7-8750H CPU @ 2.20GHz
"""

# Windows ---------------------------------------------------------------------------------------
CIM_ONE = (
    '{"Name":"13th Gen Intel(R) Core(TM) i7-13700K","NumberOfCores":16,'
    '"NumberOfLogicalProcessors":24,"L2CacheSize":24576,"L3CacheSize":30720}\r\n'
)
CIM_TWO = (
    '[{"Name":"Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz","NumberOfCores":16,'
    '"NumberOfLogicalProcessors":32,"L2CacheSize":16384,"L3CacheSize":22528},'
    '{"Name":"Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz","NumberOfCores":16,'
    '"NumberOfLogicalProcessors":32,"L2CacheSize":16384,"L3CacheSize":22528}]'
)
WMIC = (
    "\r\r\n\r\r\nL2CacheSize=4096\r\r\nL3CacheSize=16384\r\r\n"
    "Name=AMD Ryzen 7 4800H with Radeon Graphics         \r\r\nNumberOfCores=8\r\r\n"
    "NumberOfLogicalProcessors=16\r\r\n\r\r\n\r\r\n"
)

# nvidia-smi ------------------------------------------------------------------------------------
NVIDIA_4090 = (
    "0, GPU-5206045b-2a1c-1e7d-6c60-d7c367d02376, NVIDIA GeForce RTX 4090, 24564, 23028, [N/A]\n"
)
NVIDIA_TWO_OLD = """0, GPU-e189fb8d-1627-f8f0-2ba3-c0585a8e9e85, GeForce GTX 1660 Ti, 5944, 5512
1, GPU-f18afb8d-0000-f8f0-2ba3-c0585a8e9e85, Tesla P40, 22919, 22919
"""
NVIDIA_GB10 = "0, GPU-aa2a9b1c-0000-1111-2222-333344445555, NVIDIA GB10, [N/A], [N/A], [N/A]\n"
NVIDIA_NANO = "0, GPU-0, Orin (nvgpu), [Not Supported], [Not Supported]\n"
NVIDIA_H100_MIG = """0, GPU-feba7e40-d724-01ff-b00f-3a439a28a6c7, NVIDIA H100 80GB HBM3, 81559, [N/A], Enabled
1, GPU-61a65011-6571-a6d2-5ab8-66cbb6f7f9c3, NVIDIA H100 80GB HBM3, 81559, 81008, Disabled
"""
NVIDIA_MIG_XML = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <driver_version>575.57.08</driver_version>
  <gpu id="00000000:55:00.0">
    <mig_mode><current_mig>Enabled</current_mig></mig_mode>
    <fb_memory_usage><total>81559 MiB</total><used>N/A</used><free>N/A</free></fb_memory_usage>
    <mig_devices>
      <mig_device>
        <index>0</index><gpu_instance_id>1</gpu_instance_id>
        <fb_memory_usage>
          <total>40448 MiB</total><reserved>0 MiB</reserved><used>298 MiB</used><free>40151 MiB</free>
        </fb_memory_usage>
      </mig_device>
      <mig_device>
        <index>1</index><gpu_instance_id>2</gpu_instance_id>
        <fb_memory_usage><total>20096 MiB</total><used>11 MiB</used><free>20085 MiB</free></fb_memory_usage>
      </mig_device>
    </mig_devices>
    <uuid>GPU-feba7e40-d724-01ff-b00f-3a439a28a6c7</uuid>
  </gpu>
  <gpu id="00000000:18:00.0">
    <mig_mode><current_mig>Disabled</current_mig></mig_mode>
    <mig_devices>
        None
    </mig_devices>
    <uuid>GPU-61a65011-6571-a6d2-5ab8-66cbb6f7f9c3</uuid>
  </gpu>
</nvidia_smi_log>
"""

# AMD -------------------------------------------------------------------------------------------
AMD_SMI_6_STATIC = """[
    {
        "gpu": 0,
        "asic": {"market_name": "AMD Instinct MI300X", "vendor_id": "0x1002", "device_id": "0x74a1",
                 "num_compute_units": 304, "target_graphics_version": "gfx942"},
        "vram": {"type": "HBM3", "vendor": "HYNIX", "size": {"value": 196592, "unit": "MB"}}
    }
]
"""
AMD_SMI_6_METRIC = """WARNING: amd_smi not in render group
[
    {
        "gpu": 0,
        "mem_usage": {
            "total_vram": {"value": 196592, "unit": "MB"}, "used_vram": {"value": 17153, "unit": "MB"}
        }
    }
]
"""
AMD_SMI_7_STATIC = """{
  "gpu_data": [
    {"gpu": 0, "asic": {"market_name": "AMD Radeon AI PRO R9700"},
     "vram": {"type": "GDDR6", "size": {"value": 32704, "unit": "MB"}}},
    {"gpu": 1, "asic": {"market_name": "AMD Radeon 8060S Graphics"},
     "vram": {"type": "LPDDR5X", "size": {"value": 512, "unit": "MB"}}},
    {"gpu": 2, "asic": "N/A", "vram": {"size": "N/A"}}
  ]
}"""
AMD_SMI_7_METRIC = """{
  "gpu_data": [
    {"gpu": 0, "mem_usage": {"total_vram": {"value": 32704, "unit": "MB"},
      "used_vram": {"value": 704, "unit": "MB"}, "free_vram": {"value": 32000, "unit": "MB"},
      "total_gtt": {"value": 0, "unit": "MB"}}},
    {"gpu": 1, "mem_usage": {"total_vram": {"value": 512, "unit": "MB"},
      "total_gtt": {"value": 98304, "unit": "MB"}}}
  ]
}"""
ROCM_SMI_5 = """{"card0": {"Card series": "Navi 21 [Radeon RX 6800]", "Card model": "0x0e3a", \
"VRAM Total Memory (B)": "17163091968", "VRAM Total Used Memory (B)": "17453056"}, "system": {}}"""
ROCM_SMI_6 = """WARNING: AMD GPU device(s) is/are in a low-power state.

{
  "card1": {
    "VRAM Total Memory (B)": "536870912",
    "VRAM Total Used Memory (B)": "100000000",
    "GTT Total Memory (B)": "66571993088",
    "GTT Total Used Memory (B)": "0",
    "Card Series": "AMD Radeon Graphics",
    "Card Model": "0x15bf"
  },
  "card0": {
    "VRAM Total Memory (B)": "21458059264",
    "VRAM Total Used Memory (B)": "27856896",
    "Card Series": "Radeon RX 7900 XT",
    "Card Model": "0x744c",
    "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
    "GFX Version": "gfx1100"
  }
}
"""

# Intel -----------------------------------------------------------------------------------------
XPU_SMI_FULL = """{
    "device_list": [
        {
            "device_id": 0,
            "device_name": "Intel(R) Graphics [0xe211]",
            "device_type": "GPU",
            "memory_bus_width": "128",
            "memory_free_size_byte": "25447600128",
            "memory_physical_size_byte": "25669140480"
        }
    ]
}"""
XPU_SMI_SHORT = """{"device_list": [{"device_id": 0, "device_name": "Intel(R) Arc(TM) Graphics", \
"device_type": "GPU", "pci_bdf_address": "0000:00:02.0", "vendor_name": "Intel(R) Corporation"}]}"""

# Apple -----------------------------------------------------------------------------------------
DISPLAYS_M3_PRO = """{
  "SPDisplaysDataType" : [
    {
      "_name" : "Apple M3 Pro",
      "spdisplays_mtlgpufamilysupport" : "spdisplays_metal3",
      "spdisplays_ndrvs" : [
        { "_name" : "Color LCD", "_spdisplays_pixels" : "3024 x 1964" }
      ],
      "spdisplays_vendor" : "sppci_vendor_Apple",
      "sppci_bus" : "spdisplays_builtin",
      "sppci_cores" : "18",
      "sppci_device_type" : "spdisplays_gpu",
      "sppci_model" : "Apple M3 Pro"
    }
  ]
}"""
DISPLAYS_INTEL_MAC = """{
  "SPDisplaysDataType" : [
    {
      "_name" : "kHW_IntelUHDGraphics630Item",
      "spdisplays_vendor" : "Intel",
      "spdisplays_vram_shared" : "1536 MB",
      "sppci_model" : "Intel UHD Graphics 630"
    },
    {
      "_name" : "kHW_AMDRadeonPro560XItem",
      "spdisplays_vendor" : "sppci_vendor_amd",
      "spdisplays_vram" : "4 GB",
      "sppci_model" : "Radeon Pro 560X"
    }
  ]
}"""

# Vulkan ----------------------------------------------------------------------------------------
VULKAN_SUMMARY = """'DISPLAY' environment variable not set... skipping surface info
==========
VULKANINFO
==========

Vulkan Instance Version: 1.3.239

Devices:
========
GPU0:
	apiVersion         = 1.3.260
	driverVersion      = 2.0.279
	vendorID           = 0x1002
	deviceID           = 0x73ff
	deviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
	deviceName         = AMD Radeon RX 6600 XT
	driverID           = DRIVER_ID_AMD_PROPRIETARY
	deviceUUID         = 00000000-0a00-0000-0000-000000000000
GPU1:
	vendorID           = 0x10005
	deviceType         = PHYSICAL_DEVICE_TYPE_CPU
	deviceName         = llvmpipe (LLVM 15.0.7, 256 bits)
"""
VULKAN_FULL = """WARNING: lavapipe is not a conformant vulkan implementation, testing use only.
==========
VULKANINFO
==========

Vulkan Instance Version: 1.3.216

Presentable Surfaces:
=====================
GPU id : 0 (NVIDIA GeForce RTX 3070):
	Surface types: count = 2
GPU id : 1 (llvmpipe (LLVM 13.0.0, 256 bits)):
	Surface types: count = 2

Device Properties and Extensions:
=================================
GPU0:
VkPhysicalDeviceProperties:
---------------------------
	apiVersion     = 4206797 (1.3.205)
	vendorID       = 0x10de
	deviceID       = 0x2484
	deviceType     = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
	deviceName     = NVIDIA GeForce RTX 3070

VkPhysicalDeviceMemoryProperties:
=================================
memoryHeaps: count = 3
	memoryHeaps[0]:
		size   = 8589934592 (0x200000000) (8.00 GiB)
		budget = 8005484544 (0x1dd2a0000) (7.46 GiB)
		usage  = 0 (0x00000000) (0.00 B)
		flags: count = 1
			MEMORY_HEAP_DEVICE_LOCAL_BIT
	memoryHeaps[1]:
		size   = 6227162112 (0x1732af400) (5.80 GiB)
		budget = 6227162112 (0x1732af400) (5.80 GiB)
		usage  = 0 (0x00000000) (0.00 B)
		flags: count = 0
			None
	memoryHeaps[2]:
		size   = 257949696 (0x0f600000) (246.00 MiB)
		budget = 248905728 (0x0ed60000) (237.38 MiB)
		usage  = 9043968 (0x008a0000) (8.62 MiB)
		flags: count = 1
			MEMORY_HEAP_DEVICE_LOCAL_BIT
memoryTypes: count = 11
	memoryTypes[0]:
		heapIndex     = 1

GPU1:
VkPhysicalDeviceProperties:
---------------------------
	vendorID       = 0x10005
	deviceType     = PHYSICAL_DEVICE_TYPE_CPU
	deviceName     = llvmpipe (LLVM 13.0.0, 256 bits)
VkPhysicalDeviceMemoryProperties:
=================================
memoryHeaps: count = 1
	memoryHeaps[0]:
		size   = 16729337856 (0x3e5261000) (15.58 GiB)
		flags: count = 1
			MEMORY_HEAP_DEVICE_LOCAL_BIT
"""
VULKAN_RADV_OLD = """==========
VULKANINFO
==========
Device Properties and Extensions:
=================================
GPU0:
VkPhysicalDeviceProperties:
---------------------------
        vendorID       = 0x1002
        deviceType     = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
        deviceName     = AMD RADV POLARIS10 (ACO)

VkPhysicalDeviceMemoryProperties:
=================================
memoryHeaps: count = 3
        memoryHeaps[0]:
                size   = 4120903680 (0xf5a00000) (3.84 GiB)
                budget = 3502768128 (0xd0c80000) (3.26 GiB)
                usage  = 0 (0x00000000) (0.00 B)
                flags: count = 1
                        MEMORY_HEAP_DEVICE_LOCAL_BIT
        memoryHeaps[1]:
                size   = 17154371584 (0x3fe7af000) (15.98 GiB)
                flags:
                        None
"""
VULKAN_IGPU = """==========
VULKANINFO
==========
Devices:
========
GPU0:
	vendorID           = 0x8086
	deviceType         = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
	deviceName         = Intel(R) Iris(R) Xe Graphics (TGL GT2)
"""
