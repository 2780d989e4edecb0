"""What accelerators can do at most, from their makers' data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pi05_train.errors import UserError


@dataclass(frozen=True)
class Device:
    """One kind of accelerator. Bandwidths in bytes per second, peaks in operations per second."""

    pattern: str
    """Fits the name that the driver reports."""
    memory_gib: float
    """What a program can allocate in all."""
    peak_bf16: float
    """Dense matrix products."""
    peak_fp32: float
    """Without tensor cores."""
    bandwidth: float
    """Of its memory."""
    link: float
    """To the other devices of its node, one way."""
    source: str


DEVICES = {
    "h100_pcie": Device(r"\bH100 PCIe\b", 79, 756e12, 51e12, 2.0e12, 64e9, "NVIDIA H100 data sheet (PCIe 5.0)"),
    "h100_nvl": Device(r"\bH100 NVL\b", 93, 835e12, 60e12, 3.9e12, 300e9, "NVIDIA H100 data sheet (NVL)"),
    "h200_nvl": Device(r"\bH200 NVL\b", 139, 835e12, 60e12, 4.8e12, 450e9, "NVIDIA H200 data sheet (NVL)"),
    "h100": Device(r"\bH100\b", 79, 989e12, 67e12, 3.35e12, 450e9, "NVIDIA H100 data sheet (SXM)"),
    "h200": Device(r"\bH200\b", 139, 989e12, 67e12, 4.8e12, 450e9, "NVIDIA H200 data sheet (SXM)"),
    "a100_40gb": Device(r"\bA100-SXM4-40GB\b", 39, 312e12, 19.5e12, 1.555e12, 300e9, "NVIDIA A100 data sheet"),
    "a100": Device(r"\bA100\b", 79, 312e12, 19.5e12, 2.039e12, 300e9, "NVIDIA A100 data sheet (SXM, 80 GB)"),
}  # fmt: skip
"""By the name that `cluster.device` takes; of several patterns that fit, the first counts."""


def device_named(name: str) -> Device:
    """The device that `cluster.device` asks for."""
    if name not in DEVICES:
        raise UserError(
            "cluster.device",
            got=repr(name),
            expected="one of " + ", ".join(DEVICES),
            do="choose the one most like yours, or add it to pi05_train/trainer/devices.py",
        )
    return DEVICES[name]


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak of the device the driver names so; None where it is unknown: a guess would be a wrong MFU."""
    return next((device.peak_bf16 for device in DEVICES.values() if re.search(device.pattern, device_name)), None)
