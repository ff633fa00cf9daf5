"""What runs in the emulated machine, with the runtime's wheel and its extras alone: compile, pack, install, run.

``python inside.py FOLDER``; FOLDER has model.onnx, golden.npz, facts.json and x86.ewb. Prints one JSON object.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import enginewright_runtime
from enginewright_runtime.backends import backend
from enginewright_runtime.bundle import read_bundle, sign_bundle, write_bundle
from enginewright_runtime.golden import golden_from_bytes
from enginewright_runtime.host import fingerprint, machine
from enginewright_runtime.manifest import EngineEntry, Manifest
from enginewright_runtime.signing import make_keys


def pack(folder: Path) -> Path:
    """Compile the network here and put it into a signed bundle."""
    facts = json.loads((folder / "facts.json").read_text())
    onnxruntime, settings = backend("onnxruntime"), facts["settings"]
    model = (folder / "model.onnx").read_bytes()
    engine = onnxruntime.compile(model, settings)
    opened = onnxruntime.open(engine, settings)
    requires = onnxruntime.requires()
    name = onnxruntime.fingerprint(requires)
    path = f"engines/{name}/engine"
    manifest = Manifest(
        name="residual",
        target="cpu-arm",
        inputs=opened.inputs,
        outputs=opened.outputs,
        budget={"size_mib": 1.0},
        engines=(EngineEntry(name, "onnxruntime", path, settings, requires),),
        sequence=1,
    )
    opened.close()
    bundle = folder / "residual-cpu-arm.ewb"
    golden = (folder / "golden.npz").read_bytes()
    write_bundle(bundle, manifest, {"model.onnx": model, path: engine, "golden.npz": golden})
    make_keys(folder / "key")
    sign_bundle(bundle, folder / "key")
    return bundle


def command(*arguments: str | Path) -> str:
    """A command of the runtime that must end well."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("enginewright-runtime")), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def main() -> None:
    folder = Path(sys.argv[1])
    assert machine() == "aarch64", machine()
    bundle = pack(folder)
    key = ("--key", folder / "key.pub")
    command("verify", bundle, *key)
    ran = json.loads(command("run", bundle, "--json", *key))
    command("install", bundle, "--root", folder / "vehicle", *key)
    command("status", "--root", folder / "vehicle", *key)
    golden = golden_from_bytes(read_bundle(bundle).read("golden.npz"))
    with enginewright_runtime.open_installed(folder / "vehicle", require_key=folder / "key.pub") as session:
        agreements = golden.compare(session.run(golden.inputs))
    try:
        enginewright_runtime.open(folder / "x86.ewb").close()
        foreign = "it was opened"
    except enginewright_runtime.NoEngineFits as error:
        foreign = error.message.splitlines()[-1].strip()
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "python": platform.python_version(),
                "versions": {name: metadata.version(name) for name in ("enginewright-runtime", "numpy", "onnxruntime")},
                "instruction_sets": fingerprint()["instruction_sets"],
                "engine": ran["engine"],
                "run_agrees": ran["agrees"],
                "outputs": [vars(agreement) for agreement in agreements],
                "x86_bundle": foreign,
            }
        )
    )


if __name__ == "__main__":
    main()
