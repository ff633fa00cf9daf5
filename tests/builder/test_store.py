"""The store keeps what is complete, finds what is damaged, and lets two builds share it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enginewright.errors import NoSpace, StoreError
from enginewright.record import Artifact, Ingredients, Record
from enginewright.store import Store


def put(store: Store, content: bytes, *, kind: str = "network") -> Artifact:
    staging = store.staging("k")
    staging.mkdir(parents=True, exist_ok=True)
    (staging / "output").write_bytes(content)
    return store.add(staging / "output", kind=kind)


def record_of(artifact: Artifact, *, parameters: dict[str, int] | None = None) -> Record:
    ingredients = Ingredients("simplify", 1, parameters or {})
    return Record("simplify", ingredients, {"network": artifact}, seconds=1.5)


def test_an_artifact_is_found_by_the_digest_of_its_bytes_and_cannot_be_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = put(store, b"network")
    path = store.object_path(artifact.digest)
    assert path.read_bytes() == b"network"
    assert path.stat().st_mode & 0o222 == 0
    assert store.damage(artifact) == ""


def test_one_flipped_byte_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = put(store, b"network")
    path = store.object_path(artifact.digest)
    path.chmod(0o644)
    path.write_bytes(b"netw0rk")
    assert store.damage(artifact) == "is damaged (its bytes do not have the recorded digest)"
    assert store.damage(Artifact("0" * 64, "network", 1)) == "is missing"


def test_adding_the_right_bytes_again_mends_a_damaged_object(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = put(store, b"network")
    path = store.object_path(artifact.digest)
    path.chmod(0o644)
    path.write_bytes(b"")
    assert put(store, b"network") == artifact
    assert store.damage(artifact) == ""


def test_a_record_reads_back_equal_and_an_altered_one_is_not_trusted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record = record_of(put(store, b"network"))
    store.write_record(record)
    assert store.record(record.key) == record
    path = store.root / "steps" / f"{record.key}.json"
    path.write_bytes(path.read_bytes().replace(b'"simplify"', b'"simplifx"'))
    assert store.record(record.key) is None


def test_a_truncated_record_is_not_trusted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record = record_of(put(store, b"network"))
    store.write_record(record)
    path = store.root / "steps" / f"{record.key}.json"
    whole = path.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:size])
        assert store.record(record.key) is None


def test_a_lock_keeps_another_process_out_and_goes_with_its_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    program = (
        "import sys, time; from pathlib import Path; from enginewright.store import Store\n"
        f"with Store(Path({str(store.root)!r})).lock('k'):\n    print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        descriptor = os.open(store.root / "locks" / "k", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        process.kill()
        process.wait()
        waited: list[bool] = []
        started = time.monotonic()
        with store.lock("k", on_wait=lambda: waited.append(True)):
            assert time.monotonic() - started < 5
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_step_left_behind_is_swept_by_the_next_holder_of_its_lock(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.staging("k").mkdir(parents=True)
    (store.staging("k") / "half").write_bytes(b"half")
    with store.lock("k"):
        assert not store.staging("k").exists()


def test_sweeping_keeps_what_the_roots_name_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    kept, dropped = record_of(put(store, b"kept")), record_of(put(store, b"dropped"), parameters={"macs": 1})
    store.write_record(kept)
    store.write_record(dropped)
    store.note_build("signs-cpu", {"simplify": kept.key})
    swept = store.sweep()
    assert (swept.records, swept.objects, swept.freed_bytes) == (1, 1, len(b"dropped"))
    assert store.record(kept.key) == kept
    assert store.damage(kept.outputs["network"]) == ""
    assert store.record(dropped.key) is None


def test_a_build_is_noted_once_and_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.last_build("signs-cpu") == {}
    store.note_build("signs-cpu", {"import": "a" * 64})
    assert store.last_build("signs-cpu") == {"import": "a" * 64}
    before = (store.root / "builds" / "signs-cpu.json").stat().st_mtime_ns
    store.note_build("signs-cpu", {"import": "a" * 64})
    assert (store.root / "builds" / "signs-cpu.json").stat().st_mtime_ns == before


def test_a_full_disk_is_said_with_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(NoSpace, match="no space left on the disk of the store") as caught, store.writing():
        raise OSError(28, "No space left on device")
    assert "gc" in caught.value.hint


def test_a_store_that_cannot_be_written_names_the_variable_to_set(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(StoreError, match="cannot be written") as caught, store.writing():
        raise PermissionError(13, "Permission denied")
    assert "ENGINEWRIGHT_STORE" in caught.value.hint
