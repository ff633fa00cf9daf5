"""Peers: what each needs is pinned, and one that fails says why instead of disappearing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import peer_environments
import pytest
from onnx import TensorProto, helper, numpy_helper
from peer_environments import PEERS, Peer, PeerFailed, quantize_with
from peers_int8 import describe

_SAMPLES = {"image": np.zeros((2, 3), np.float32)}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"a network")
    return path


def _with_script(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Peer:
    (folder / "with_script.py").write_text(script)
    (folder / "with_script.txt").write_text("something==1\n")
    monkeypatch.setattr(peer_environments, "_SCRIPTS", folder)
    monkeypatch.setattr(peer_environments, "_environment", lambda peer, environments: Path(sys.executable))
    return Peer("Script", "with_script", "something")


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_everything_that_a_peer_needs_is_pinned(peer: Peer) -> None:
    lines = [line for line in peer.requirements.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert peer.version in "\n".join(lines)


def test_a_peer_gets_copies_of_the_network_and_the_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: Path
) -> None:
    script = (
        "from pathlib import Path\nimport numpy as np\n"
        "shape = np.load('calibration.npz')['image'].shape\n"
        "Path('quantized.onnx').write_text(f\"{Path('float.onnx').read_text()} {shape}\")\n"
        "Path('float.onnx').write_text('spoilt')\n"
    )
    peer = _with_script(monkeypatch, tmp_path, script)
    assert quantize_with(peer, network, _SAMPLES, environments=tmp_path) == b"a network (2, 3)"
    assert network.read_bytes() == b"a network"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise ValueError('no such operator')", "ValueError: no such operator"),
        ("pass", "wrote no quantized.onnx"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import os; os.abort()", "signal 6"),
    ],
)
def test_a_peer_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: Path, script: str, reason: str
) -> None:
    peer = _with_script(monkeypatch, tmp_path, script)
    with pytest.raises(PeerFailed, match=reason):
        quantize_with(peer, network, _SAMPLES, environments=tmp_path)


@pytest.mark.parametrize(("largest", "bits"), [(64, 7), (65, 8), (-128, 8)])
def test_the_bits_of_the_weights_are_read_from_the_file(largest: int, bits: int) -> None:
    weights = np.zeros((4, 3), np.int8)
    weights[0, 0] = largest
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "scale"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["y"], name="product"),
        ],
        "one product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.float32(0.1), "scale"),
            numpy_helper.from_array(np.uint8(3), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    assert describe(model) == (bits, f"uint8 x {bits}-bit weights, 1 of 1 layers")
