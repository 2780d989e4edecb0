"""Devices by the names that drivers report and by those that a plan is given."""

from __future__ import annotations

import pytest

from pi05_train.trainer.devices import DEVICES, device_named, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA B200", None),
        ("cpu", None),
    ],
)
def test_unknown_devices_have_no_peak(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_a_plan_and_a_run_know_the_same_devices() -> None:
    assert device_named("h200").peak_bf16 == peak_flops("NVIDIA H200")
    assert all(device.peak_fp32 < device.peak_bf16 for device in DEVICES.values())
