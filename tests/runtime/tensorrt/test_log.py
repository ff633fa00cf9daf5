"""What TensorRT says when it fails, in the words that its versions print, and the fix that each is answered with."""

from __future__ import annotations

import gc

import pytest
from tests.fake_tensorrt import fake_tensorrt

from enginewright_runtime.tensorrt.cuda_codes import cuda_hint
from enginewright_runtime.tensorrt.library import KINDS, Library
from enginewright_runtime.tensorrt.log import Known, failure, hint_for, new_log

LOWER = (
    "lower workspace_mib of the target (now 4096) and build the bundle again, or end what else uses the GPU's memory"
)
RAISE = (
    "raise workspace_mib of the target (now 4096), or keep that layer in float (keep_float in the recipe), and build the "
    "bundle again"
)
UPDATE = (
    "the driver is older than this TensorRT wants (it knows CUDA 12.2 at the most): update it, or install a TensorRT for "
    "its CUDA"
)
KNOWN = Known(4096, "12.2")

# Quoted in public issues of NVIDIA/TensorRT, onnx/onnx-tensorrt and of projects that use them (8.0 to 10.12).
SAID = {
    "2: [virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 16581132288 bytes.)": LOWER,
    "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)": LOWER,
    "Error Code: 9: Skipping tactic 0x0000000000000000 due to exception [tunable_graph.cpp:create:117] autotuning: User "
    "allocator error allocating 15485030400-byte buffer": LOWER,
    "C:\\source\\rtSafe\\safeRuntime.cpp (25) - Cuda Error in nvinfer1::internal::DefaultAllocator::allocate: 2 (out of "
    "memory)": LOWER,
    "Requested amount of GPU memory (15485030400 bytes) could not be allocated. There may not be enough free memory for "
    "allocation to succeed.": LOWER,
    "10: [optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[transformer.wte.weight...MatMul_2899]}.)": RAISE,
    "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
    "ArgMax_260.)": RAISE,
    "CUDA initialization failure with error: 35. Please check your CUDA installation:  "
    "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html": UPDATE,
    "ERROR: Cuda initialization failure with error 35. Please check cuda installation": UPDATE,
    "CUDA driver version is insufficient for CUDA runtime version": UPDATE,
    "CUDA initialization failure with error: 100": cuda_hint(100),
    "[E] [TRT] Cuda initialization failure with error 2. Please check cuda installation": cuda_hint(2),
    "CUDA initialization failure with error: 46": cuda_hint(46),
    "CUDA initialization failure with error: 222": "run nvidia-smi: TensorRT finds no GPU that it can use",
    "all CUDA-capable devices are busy or unavailable": cuda_hint(46),
    "6: The engine plan file is not compatible with this version of TensorRT, expecting library version 8.2.3 got 8.2.1, "
    "please rebuild.": "it was built by another version: enginewright-runtime compile BUNDLE builds it again",
    "1: [stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization assertion stdVersionRead == "
    "serializationVersion failed.Version tag does not match. Note: Current Version: 213, Serialized Engine Version: 205)": (
        "it was built by another version: enginewright-runtime compile BUNDLE builds it again"
    ),
    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an incompatible "
    "device, expecting compute 8.9 got compute 8.6, please rebuild.)": (
        "it was built for another GPU: enginewright-runtime compile BUNDLE builds it again"
    ),
    '[8] Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"': (
        "this version lacks that operator, and plugins are not loaded: write the network with other operators"
    ),
    "3: getPluginCreator could not find plugin: Round version: 1": (
        "this version lacks that operator, and plugins are not loaded: write the network with other operators"
    ),
    "[executionContext.cpp::handleTrainStationRunnerPhase1::146] Error Code 1: Cuda Runtime (operation not permitted when "
    "stream is capturing)": "this engine cannot be captured into a CUDA graph: leave out cuda_graph of the target",
    "something that no version has said yet": "",
}


@pytest.mark.parametrize("said", SAID)
def test_what_a_version_says_is_answered_with_its_fix(said: str) -> None:
    assert hint_for(said, "", KNOWN) == SAID[said]


@pytest.mark.parametrize(
    "warned",
    [
        "Skipping tactic 3 due to insuficient memory on requested size of 4364 detected for tactic 4.",
        "Skipping tactic 3 due to insufficient memory on requested size of 9385 detected for tactic 0x0000000000000004.\n"
        "Try decreasing the workspace size with IBuilderConfig::setMemoryPoolLimit().",
        "Tactic Device request: 4364MB Available: 3788MB. Device memory is insufficient to use tactic.",
    ],
)
def test_no_kernel_for_want_of_memory_is_a_want_of_memory(warned: str) -> None:
    said = "Error Code 10: Internal Error (Could not find any implementation for node MaxPool_12.)"
    assert hint_for(said, warned, KNOWN) == LOWER
    assert hint_for(said, "", KNOWN) == RAISE


def test_a_kernel_that_was_passed_over_is_not_the_reason_of_another_error() -> None:
    passed = "Tactic Device request: 4364MB Available: 3788MB. Device memory is insufficient to use tactic."
    said = "CUDA driver version is insufficient for CUDA runtime version"
    assert hint_for(said, passed, KNOWN) == UPDATE


def test_a_cause_that_stands_in_a_warning_alone_is_found() -> None:
    warned = "CUDA initialization failure with error: 35. Please check your CUDA installation"
    assert hint_for("3: [builder.cpp::Builder] Error Code 3: API Usage Error", warned, KNOWN) == UPDATE


def test_a_limit_that_is_not_set_is_said_so_and_is_not_to_be_raised() -> None:
    assert hint_for("OutOfMemory", "", Known()) == (
        "lower workspace_mib of the target (not set now, so the builder may take the GPU's whole memory) and build the "
        "bundle again, or end what else uses the GPU's memory"
    )
    assert hint_for("Could not find any implementation for node conv", "", Known()) == (
        "keep that layer in float (keep_float in the recipe), and build the bundle again"
    )


def library() -> Library:
    return Library(KINDS["tensorrt"], fake_tensorrt("10.3.0"), "10.3.0")


def test_tensorrt_is_given_one_logger_that_outlives_every_log() -> None:
    """It keeps the first that it is given, and no reference to it."""
    found = library()
    first, second = new_log(found), new_log(found)
    assert first.logger is second.logger
    severity = found.trt.ILogger.Severity
    kept = first.logger
    del first
    gc.collect()
    kept.log(severity.ERROR, "of the second engine")
    assert second.faults == [("ERROR", "of the second engine")]
    assert new_log(found).logger is kept


def test_an_error_after_thousands_of_warnings_is_told() -> None:
    found = library()
    log = new_log(found)
    for number in range(5_000):
        log.logger.log(found.trt.ILogger.Severity.WARNING, f"weight {number} is small")
    log.logger.log(found.trt.ILogger.Severity.ERROR, "no kernel")
    assert "no kernel" in str(failure(found, log, "could not build the engine"))
    assert len(log.faults) < 5_000
