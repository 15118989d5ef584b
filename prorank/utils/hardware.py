"""Identify the processor, for reports and for measurements that are stored per machine."""

from __future__ import annotations

import functools
import hashlib
import os
import platform

# Variables that make oneDNN and ATen choose other kernels than the processor supports.
KERNEL_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def processor_name() -> str:
    """Return the name of the processor, from /proc on Linux and from `platform` elsewhere."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_identity() -> str:
    """Return the processor's name, a hash of its instruction sets, and the variables that select kernels.

    Machines with equal identities run the same kernels.
    """
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    chosen = [f"{name}={os.environ[name]}" for name in KERNEL_VARIABLES if os.environ.get(name)]
    return " ".join([processor_name(), hashlib.sha256(flags.encode()).hexdigest()[:8], *chosen])


@functools.lru_cache
def _cpuinfo(field: str) -> str:
    """Return the first value of a field of /proc/cpuinfo, or ""."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            return next((line.split(":", 1)[1].strip() for line in handle if line.split(":")[0].strip() == field), "")
    except OSError:
        return ""
