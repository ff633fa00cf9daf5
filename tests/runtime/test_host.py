"""What a machine is and how it is doing, read from recorded trees of /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginewright_runtime import host

XEON = """\
processor	: 0
model name	: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz
cpu MHz		: 2000.000
flags		: fpu sse2 avx2 avx512f avx512_vnni hypervisor

processor	: 1
model name	: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz
cpu MHz		: 3000.000
flags		: fpu sse2 avx2 avx512f avx512_vnni hypervisor
"""
ORIN = """\
processor	: 0
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes asimdhp cpuid asimdrdm asimddp i8mm
CPU implementer	: 0x41
CPU architecture: 8
CPU part	: 0xd42
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    """A recorded file system."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_server_is_told_by_its_cpu_memory_and_governor(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": XEON,
            "proc/meminfo": "MemTotal:       16384000 kB\nMemFree: 1 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        },
    )
    found = host.fingerprint(root=root)
    assert found["cpu"] == "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz"
    assert found["instruction_sets"] == ["avx2", "avx512f", "avx512_vnni"]
    assert found["memory_mib"] == 16000
    assert found["governor"] == "performance"
    assert isinstance(found["versions"], dict)
    assert "numpy" in found["versions"]


def test_an_arm_board_is_told_by_its_model_and_part(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": ORIN, "proc/device-tree/model": "NVIDIA Jetson AGX Orin\x00"})
    assert host.instruction_sets(root=root) == ("dotprod", "i8mm")
    assert host.fingerprint(root=root)["cpu"] == "NVIDIA Jetson AGX Orin, implementer 0x41, part 0xd42"


def test_conditions_are_read_from_where_linux_keeps_them(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/stat": "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\n",
            "proc/pressure/cpu": "some avg10=0.10 avg60=0.20 avg300=0.30 total=12345\nfull avg10=0.00 total=9\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 5\nthrottled_usec 77\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1000000\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
        },
    )
    found = host.conditions(root=root)
    del found["load_average"]
    assert found == {
        "frequency_mhz": 1500.0,
        "thermal_throttles": 7,
        "quota_throttled_us": 77,
        "pressure_stalled_us": 12345,
        "steal_ticks": 80,
    }


def test_the_clock_comes_from_cpuinfo_where_there_is_no_cpufreq(tmp_path: Path) -> None:
    assert host.conditions(root=tree(tmp_path, {"proc/cpuinfo": XEON}))["frequency_mhz"] == 2500.0


def test_what_cannot_be_read_is_null_and_no_error(tmp_path: Path) -> None:
    found = host.host(root=tmp_path)
    assert isinstance(found["fingerprint"], dict)
    assert isinstance(found["conditions"], dict)
    assert host.instruction_sets(root=tmp_path) == ()
    assert found["fingerprint"]["memory_mib"] is None
    assert found["fingerprint"]["governor"] is None
    assert found["conditions"]["steal_ticks"] is None


def test_this_host_has_a_stable_fingerprint() -> None:
    first, second = host.fingerprint(), host.fingerprint()
    assert first == second
    assert host.fingerprint_id(first) == host.fingerprint_id(second)
    assert len(host.fingerprint_id(first)) == 64
    assert host.fingerprint_id(first) != host.fingerprint_id({**first, "governor": "powersave-2"})


@pytest.mark.parametrize(("system_s", "ours"), [("AMD64", "x86_64"), ("arm64", "aarch64"), ("riscv64", "riscv64")])
def test_an_architecture_has_one_name(monkeypatch: pytest.MonkeyPatch, system_s: str, ours: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: system_s)
    assert host.machine() == ours
