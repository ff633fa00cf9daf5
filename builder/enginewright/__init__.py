"""enginewright builds, verifies and measures compressed models for the computer they must run on.

The command line (`enginewright --help`) is the way in; from Python, `load_recipe`, `make_plan` and `build` are what it
is made of. Importing this package imports nothing heavy: torch, onnx and onnxruntime load inside the steps that use
them.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
