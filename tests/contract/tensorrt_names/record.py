"""Records which names the Python bindings of each TensorRT have: `python tests/contract/tensorrt_names/record.py`.

The bindings alone are on the package registry and small; the libraries that they load are neither. Empty stand-ins,
compiled here from the names that the bindings ask for, let the bindings be imported, and nothing of them is ever called.
It needs a network, gcc and binutils. The tests read the files that it wrote and need none of these.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
RELEASES = {
    "8.6.1": "tensorrt-bindings==8.6.1",  # JetPack 6.0 has 8.6.2
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",  # JetPack 6.1 and 6.2
    "10.13.3": "tensorrt-cu12-bindings==10.13.3.9",  # JetPack 7.0
    "11.4.0": "tensorrt-cu13-bindings==11.4.0.106",
}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LISTING = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location(sys.argv[2], sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
public = lambda owner: sorted(name for name in dir(owner) if not name.startswith("_"))
classes = {name: public(found) for name in public(module) if isinstance(found := getattr(module, name), type)}
enums = sorted(name for name in classes if hasattr(getattr(module, name), "__members__"))
kept = {name: members for name, members in classes.items() if not name.endswith("Layer")}
print(json.dumps({"module": public(module), "enums": [e for e in enums if e in kept], "classes": kept}))
"""


def main() -> None:
    for version, requirement in RELEASES.items():
        with tempfile.TemporaryDirectory() as folder:
            bindings = _downloaded(requirement, Path(folder))
            _write(version, requirement, _names(bindings, Path(folder) / "stand-ins"))


def _downloaded(requirement: str, folder: Path) -> Path:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([*command, "--python-version", PYTHON, *platforms, requirement], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return next(folder.glob("*/tensorrt*.so"))


def _names(bindings: Path, stand_ins: Path) -> dict[str, object]:
    _stand_ins(bindings, stand_ins)
    command = [sys.executable, "-c", LISTING, str(bindings), "tensorrt"]
    listed = subprocess.run(command, env={"LD_LIBRARY_PATH": str(stand_ins)}, check=True, capture_output=True).stdout
    found: dict[str, object] = json.loads(listed)
    return found


def _stand_ins(bindings: Path, folder: Path) -> None:
    """Libraries of the right names, whose functions do nothing."""
    folder.mkdir()
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", bindings], check=True, capture_output=True, text=True
    ).stdout
    ours = r"\bU ((?:create(?:Infer|Nv)|get(?:Nv|Builder|Plugin)|initLib|_ZN?K?\d*nv)\w*)$"
    code = folder / "stand-ins.s"
    labels = "".join(f".globl {name}\n{name}:\n" for name in re.findall(ours, listed, flags=re.MULTILINE))
    code.write_text(f".text\n{labels}xor %eax, %eax\nret\n")
    needed = subprocess.run(["readelf", "-d", bindings], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"\[(libnv[^\]]*)\]", needed):
        command = ["gcc", "-shared", "-nostdlib", f"-Wl,-soname,{library}", "-o", folder / library, code]
        subprocess.run(command, check=True)


def _write(version: str, requirement: str, names: dict[str, object]) -> None:
    path = FOLDER / f"{version}.json"
    lines = [f'"{key}": {json.dumps(value)}' for key, value in names.items() if key != "classes"]
    classes = names["classes"]
    assert isinstance(classes, dict)
    listed = ",\n".join(f'  "{name}": {json.dumps(members)}' for name, members in classes.items())
    path.write_text(f'{{"requirement": "{requirement}",\n' + ",\n".join(lines) + f',\n"classes": {{\n{listed}\n}}}}\n')
    print(f"{path.name}: {len(classes)} classes")


if __name__ == "__main__":
    main()
