"""What processor this is, for reports and for measurements that are kept by machine."""

from __future__ import annotations

import functools
import hashlib
import os
import platform

# Variables by which oneDNN and ATen take other kernels than the processor has.
KERNEL_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def processor_name() -> str:
    """The processor's name: Linux keeps it in /proc, elsewhere `platform` knows it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_identity() -> str:
    """The name, a hash of the instruction sets, and the variables that choose kernels: equal where kernels run equally fast."""
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    chosen = [f"{name}={os.environ[name]}" for name in KERNEL_VARIABLES if os.environ.get(name)]
    return " ".join([processor_name(), hashlib.sha256(flags.encode()).hexdigest()[:8], *chosen])


@functools.lru_cache
def _cpuinfo(field: str) -> str:
    """The first value of a field of /proc/cpuinfo, or ""."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            return next((line.split(":", 1)[1].strip() for line in handle if line.split(":")[0].strip() == field), "")
    except OSError:
        return ""
