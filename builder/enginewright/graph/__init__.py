"""What the builder knows of ONNX graphs: layers, calibrated ranges, and where quantizers go.

Import the modules: `layers`, `ranges`, `dialects`, `qdq`, `fidelity`. `dialects` is plain data, so that planning a
build imports no onnx.
"""
