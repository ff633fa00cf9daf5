"""Targets: where they are found, and that every one that comes with enginewright is valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import enginewright.target
from enginewright.errors import TargetError, UsageError
from enginewright.project import find_project
from enginewright.target import Target, catalogue, load_target, load_targets
from enginewright_runtime.backends import BACKENDS

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden/errors/targets"
CPU = "target: 1\nname: {name}\nsummary: {summary}\nbackend: onnxruntime\nbuild: here\nthreads: {threads}\n"


def write(folder: Path, name: str, *, summary: str = "a computer", threads: object = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(CPU.format(name=name, summary=summary, threads=threads))


@pytest.mark.parametrize("wrong", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_wrong_target_is_refused_with_its_golden_text(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/cpu.yaml").write_bytes(wrong.read_bytes())
    with pytest.raises(TargetError) as caught:
        load_target("cpu", [Path("targets")])
    assert f"{caught.value}\n" == wrong.with_suffix(".txt").read_text()
    assert caught.value.exit_code == 2


def test_every_target_that_comes_with_enginewright_is_valid_and_says_what_it_is():
    targets = load_targets(catalogue(None))
    assert "cpu" in [target.name for target in targets]
    assert all(target.summary for target in targets)


def test_every_backend_that_a_target_may_name_is_one_of_the_runtime():
    assert set(get_args(get_type_hints(Target)["backend"])) <= set(BACKENDS)


def test_the_catalogue_of_an_installed_wheel_is_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("enginewright.target._PACKAGED", tmp_path)
    write(tmp_path, "van")
    assert [target.name for target in load_targets(catalogue(None))] == ["van"]


def test_a_projects_own_target_comes_before_the_one_that_comes_with_enginewright(tmp_path):
    (tmp_path / "recipes").mkdir()
    write(tmp_path / "targets", "cpu", summary="mine", threads=7)
    write(tmp_path / "targets", "van", threads=2)
    folders = catalogue(find_project(tmp_path))
    assert load_target("cpu", folders).threads == 7
    assert load_target("cpu", folders).path == tmp_path / "targets/cpu.yaml"
    assert load_target("cpu", catalogue(None)).threads == 1
    assert [target.summary for target in load_targets(folders) if target.name in ("cpu", "van")] == [
        "mine",
        "a computer",
    ]


def test_a_project_without_targets_has_those_that_come_with_enginewright(tmp_path):
    (tmp_path / "recipes").mkdir()
    assert load_target("cpu", catalogue(find_project(tmp_path))) == load_target("cpu", catalogue(None))


def test_an_unknown_target_is_told_with_the_nearest_known(tmp_path):
    write(tmp_path, "van-cpu")
    with pytest.raises(UsageError) as caught:
        load_target("vancpu", [tmp_path])
    assert caught.value.message == "there is no target 'vancpu'. Did you mean 'van-cpu'?"


def test_an_unknown_target_unlike_any_is_told_with_all_of_them(tmp_path):
    write(tmp_path, "bus")
    write(tmp_path, "van")
    with pytest.raises(UsageError) as caught:
        load_target("submarine", [tmp_path])
    assert caught.value.message == "there is no target 'submarine'. The targets are: bus and van."


def test_a_target_is_a_name_and_never_a_path(tmp_path):
    write(tmp_path, "outside")
    write(tmp_path / "targets", "van")
    with pytest.raises(UsageError):
        load_target("../outside", [tmp_path / "targets"])


def test_listing_targets_reports_the_problems_of_all_files(tmp_path):
    write(tmp_path, "bus", threads=0)
    write(tmp_path, "tram")
    write(tmp_path, "van", threads="many")
    with pytest.raises(TargetError) as caught:
        load_targets([tmp_path])
    assert len(caught.value.problems) == 2


def test_the_backend_is_told_the_threads():
    assert load_target("cpu", catalogue(None)).engine_settings() == {"threads": 1}


FIGURES = {
    "compute_capability", "sm_count", "memory_gb", "bandwidth_gb_s", "int8_tops", "float16_tflops", "dla_cores", "jetpack",
    "tensorrt", "cuda", "python", "power_modes", "power_mode", "workspace_mib", "threads", "channel_multiple",
}  # fmt: skip


def sources(target: Target) -> dict[str, str]:
    """What the comment of each figure says: the one behind it, or else the one above it; empty where there is none."""
    lines = target.path.read_text().splitlines()
    found = {}
    for above, line in zip(["", *lines], lines, strict=False):
        key, _, rest = line.partition(":")
        if key in FIGURES:
            found[key] = rest.partition(" # ")[2].strip() or (above[2:].strip() if above.startswith("# ") else "")
    return found


def test_no_figure_of_the_catalogue_stands_without_its_source():
    for target in load_targets(catalogue(None)):
        assert target.path.read_text().startswith("# "), target.name
        assert [key for key, source in sources(target).items() if not source] == [], target.name
        assert "unverified" not in target.path.read_text(), target.name


def test_a_rate_is_what_its_comment_computes():
    """Where the comment begins with a computation: SMs, clock and operations, or width and rate of the memory's bus."""
    computed = 0
    for target in load_targets(catalogue(None)):
        for key, source in sources(target).items():
            operations = re.match(r"(\d+) SMs x ([\d.]+) GHz(?: \([^)]*\))? x (\d+)", source)
            bus = re.match(r"(\d+) bit x (2 x )?([\d.]+) G(?:Hz|bit/s) / 8", source)
            if operations:
                sms, clock, at_once = operations.groups()
                assert getattr(target, key) == pytest.approx(int(sms) * float(clock) * int(at_once) / 1e3, rel=0.015)
                assert int(sms) == target.sm_count, target.name
            elif bus:
                width, twice, clock = bus.groups()
                assert getattr(target, key) == pytest.approx(
                    int(width) * (2 if twice else 1) * float(clock) / 8, rel=0.015
                )
            computed += bool(operations or bus)
    assert computed > 20


def test_a_wheel_has_the_repositorys_catalogue_where_the_package_looks_for_it():
    [packed] = re.findall(r'^"targets" = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert Path(enginewright.__file__).parents[1] / packed == enginewright.target._PACKAGED
    [folder] = catalogue(None)
    ours, theirs = ({path.name: path.read_bytes() for path in at.iterdir()} for at in (ROOT / "targets", folder))
    assert ours == theirs


def test_the_catalogue_has_the_devices_that_are_promised():
    wanted = "orin orin-jp7 orin-32 orin-nx orin-nano thor xavier t4 a10 a100 l4 l40s h100 h200 b200 rtx-ampere rtx-ada cpu cpu-arm"
    targets = {target.name: target for target in load_targets(catalogue(None))}
    assert set(wanted.split()) <= set(targets)
    jetsons = [target for target in targets.values() if target.jetpack]
    assert len(jetsons) == 7
    assert all(target.machine == "aarch64" and target.power_mode and target.tensorrt for target in jetsons)
    assert all(target.channel_multiple == 32 for target in targets.values() if target.compute_capability)


GPU = "target: 1\nname: van\nbackend: {backend}\nbuild: {build}\n{more}"


@pytest.mark.parametrize(
    ("backend", "build", "more", "message"),
    [
        ("tensorrt", "here", 'compute_capability: "8.7"\n', "4: build must be device with the backend tensorrt, got here"),
        ("onnxruntime", "ahead", "", "4: build must be here or device with the backend onnxruntime, got ahead"),
        ("tensorrt", "device", "", "1: missing key 'compute_capability': a TensorRT engine runs on one compute capability"),
        ("tensorrt", "device", "compute_capability: 8.7\n",
         "5: compute_capability must be a compute capability in quotes, such as \"8.7\", got 8.7; in quotes it is text"),
        ("tensorrt", "device", 'compute_capability: "8.7"\npower_mode: MAXN\n',
         "6: power_mode must be one of power_modes (none), got MAXN"),
        ("tensorrt", "device", 'compute_capability: "8.7"\ndla_cores: 2\ndla_core: 0\n',
         "1: missing key 'tensorrt': a DLA's calibration cache is written for one TensorRT"),
        ("tensorrt", "device", 'compute_capability: "8.7"\ntensorrt: "10.3"\ndla_core: 0\n',
         "7: dla_core must be below dla_cores (0), got 0"),
    ],
)  # fmt: skip
def test_a_target_with_a_gpu_must_fit_together(backend, build, more, message, tmp_path):
    (tmp_path / "van.yaml").write_text(GPU.format(backend=backend, build=build, more=more))
    with pytest.raises(TargetError) as caught:
        load_target("van", [tmp_path])
    assert str(caught.value).partition("van.yaml:")[2] == message


def test_a_backend_is_told_what_the_target_pins_and_nothing_else(tmp_path):
    more = 'compute_capability: "8.7"\nworkspace_mib: 512\noptimization_level: 4\nsm_count: 16\n'
    (tmp_path / "van.yaml").write_text(GPU.format(backend="tensorrt", build="device", more=more))
    assert load_target("van", [tmp_path]).engine_settings() == {"workspace_mib": 512, "optimization_level": 4}


def test_a_device_is_the_model_and_in_the_mode_that_its_target_says():
    assert load_target("orin-nx", catalogue(None)).needs() == {
        "machine": "aarch64",
        "compute_capability": "8.7",
        "power_mode": "40W",
        "sm_count": "8",
        "memory_gb": "16",
    }


def test_what_a_target_does_not_say_is_not_asked_of_a_device(tmp_path):
    (tmp_path / "van.yaml").write_text(
        GPU.format(backend="tensorrt", build="device", more='compute_capability: "8.7"\n')
    )
    assert load_target("van", [tmp_path]).needs() == {"compute_capability": "8.7"}


def test_an_engine_ahead_of_time_is_for_every_card_of_its_capability(tmp_path):
    more = 'compute_capability: "8.9"\nsm_count: 128\nmemory_gb: 24\n'
    (tmp_path / "van.yaml").write_text(GPU.format(backend="tensorrt_rtx", build="ahead", more=more))
    assert load_target("van", [tmp_path]).needs() == {"compute_capability": "8.9"}


def test_the_target_of_another_mode_that_the_page_on_power_shows_loads(tmp_path):
    page = (Path(__file__).parents[2] / "docs/power.md").read_text()
    (tmp_path / "orin-30w.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    shown = load_target("orin-30w", [tmp_path])
    assert shown.needs() == {
        "machine": "aarch64",
        "compute_capability": "8.7",
        "power_mode": "MODE_30W",
        "memory_gb": "64",
    }
