"""Processor features by llama.cpp's names, as operating systems report them.

Sources: `ggml_backend_cpu_get_features` in llama.cpp's ggml/src/ggml-cpu/ggml-cpu.cpp; Linux's
arch/x86/include/asm/cpufeatures.h and Documentation/arch/arm64/elf_hwcaps.rst; Apple's "Determining instruction set
characteristics" (sysctl).
"""

from __future__ import annotations

import re
from typing import Final

from turbopilot.app.doctor.facts import ProcessorFacts
from turbopilot.base.graphics import Host
from turbopilot.base.machine import cpu_flags

# llama.cpp's name → Linux's flag, sysctl of macOS
FEATURES: Final = {
    "SSE3": ("pni", ""), "SSSE3": ("ssse3", ""), "AVX": ("avx", "hw.optional.avx1_0"),
    "AVX2": ("avx2", "hw.optional.avx2_0"), "AVX_VNNI": ("avx_vnni", ""), "F16C": ("f16c", "hw.optional.f16c"),
    "FMA": ("fma", "hw.optional.fma"), "BMI2": ("bmi2", "hw.optional.bmi2"),
    "AVX512": ("avx512f", "hw.optional.avx512f"), "AVX512_VBMI": ("avx512vbmi", "hw.optional.avx512vbmi"),
    "AVX512_VNNI": ("avx512_vnni", ""), "AVX512_BF16": ("avx512_bf16", ""), "AMX_INT8": ("amx_int8", ""),
    "NEON": ("asimd", "hw.optional.AdvSIMD"), "FP16_VA": ("asimdhp", "hw.optional.arm.FEAT_FP16"),
    "DOTPROD": ("asimddp", "hw.optional.arm.FEAT_DotProd"), "MATMUL_INT8": ("i8mm", "hw.optional.arm.FEAT_I8MM"),
    "SVE": ("sve", ""), "SME": ("sme", "hw.optional.arm.FEAT_SME"),
}  # fmt: skip


def processor_facts(host: Host) -> ProcessorFacts:
    """Return this processor's name and the features that the operating system reports."""
    if host.system == "Darwin":
        name = host.run(["sysctl", "-n", "machdep.cpu.brand_string"]).strip()
        said = host.run(["sysctl", "hw.optional"])
        reported = dict(re.findall(r"^(\S+): (\d+)$", said, re.MULTILINE))
        known = {
            name: reported[key] != "0" for name, (_, key) in FEATURES.items() if key in reported
        }
    else:
        cpuinfo = host.read("proc/cpuinfo")
        found = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
        name = found[1].strip() if found else ""
        flags = cpu_flags(cpuinfo)
        known = {name: flag in flags for name, (flag, _) in FEATURES.items() if flags}
    has = frozenset(name for name, is_set in known.items() if is_set)
    return ProcessorFacts(name or host.machine, has, frozenset(known) - has)


def compiled_features(system_info: str) -> frozenset[str]:
    """Return the known features in the text of `llama_print_system_info`.

    >>> sorted(compiled_features("CPU : SSE3 = 1 | AVX2 = 1 | LLAMAFILE = 1 | "))
    ['AVX2', 'SSE3']
    """
    return frozenset(re.findall(r"(\w+) = [1-9]", system_info)) & FEATURES.keys()
