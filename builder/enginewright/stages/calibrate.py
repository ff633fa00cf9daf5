"""Calibrate: ranges for the activations, streamed over calibration samples so that memory does not grow with their
number; and the method that they come from, where the recipe leaves it open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx

from enginewright.calibration_samples import Shares, refuse_placeholders, share_out
from enginewright.datasets import Batch, Split, load_data, load_split
from enginewright.errors import listed
from enginewright.graph.dialects import DIALECTS
from enginewright.graph.execution import samples_at_once
from enginewright.graph.learned_ranges import learned_ranges, module_ranges_from_json
from enginewright.graph.method_choice import GROUPS, Choice, Trials, choose, try_methods
from enginewright.graph.qdq import quantize, tensors_to_calibrate
from enginewright.graph.ranges import METHODS, Range, Scales, Seen, observe
from enginewright.metrics import make_metric
from enginewright.running import Outcome, RunningStep
from enginewright.sample_digests import digests_of, digests_to_json
from enginewright.signature import Array
from enginewright_runtime.canonical import Json
from enginewright_runtime.host import usable_cores

__all__ = ["run"]

_BATCH = 16
_AUTO = "auto"


def run(step: RunningStep) -> Outcome:
    method = step.parameters["method"]
    split = load_split(load_data(step), "calibration", step)
    shares = share_out(split, step.parameters["samples"], hold_back=method == _AUTO)
    refuse_placeholders(split, shares.observed)
    if len(shares.observed) < step.parameters["samples"] and method == _AUTO:
        step.say(
            f"of the {len(split)} calibration samples {len(shares.held_back)} are held back to choose the method, "
            f"and the ranges come from the other {len(shares.observed)}"
        )
    network = onnx.load(step.inputs["network"])
    calibration = _Calibration(step, split, shares, network)
    seen = calibration.observe()
    table: dict[str, Json] = {}
    summary: dict[str, Json] = {}
    if method == _AUTO:
        choice, trials = calibration.choose_method(seen)
        method = choice.method
        table = choice.to_json(trials, metric=_metric_name(step), held_back=len(shares.held_back))
        summary = _figures(choice, trials, len(shares.held_back))
    scales = calibration.scales(seen, method)
    step.output("scales").write_text(json.dumps({**scales.to_json(), **({"auto": table} if table else {})}))
    step.output("samples").write_text(json.dumps(digests_to_json(calibration.digests)))
    return Outcome({"method": method, "samples": seen.samples, "tensors": len(scales.ranges), **summary})


class _Calibration:
    """One network and the samples that it is calibrated with. `digests` are those of the samples that were read."""

    def __init__(self, step: RunningStep, split: Split, shares: Shares, network: onnx.ModelProto) -> None:
        self.step, self.split, self.shares, self.network = step, split, shares, network
        self.digests: set[bytes] = set()
        self._learned: Mapping[str, Range] = {}
        if "learned" in step.inputs:
            modules = module_ranges_from_json(json.loads(step.inputs["learned"].read_bytes()))
            learned = learned_ranges(network, modules)
            self._learned = learned.tensors
            if learned.missing:
                step.warn(
                    f"the network has no layer {listed(learned.missing)}, for which training has learned a range: "
                    "calibration alone gives it"
                )

    def observe(self) -> Seen:
        size, order = self.split.batch_size(_BATCH), self.shares.observed

        def batches() -> Iterator[Mapping[str, Array]]:
            batches = self.split.batches(size, order=order)
            for batch in self.step.tracked(batches, total=-(-len(order) // size), note="calibrating"):
                self.digests.update(digests_of(batch.inputs))
                yield batch.inputs

        return observe(self.network, tensors_to_calibrate(self.network), batches(), threads=usable_cores())

    def scales(self, seen: Seen, method: str) -> Scales:
        """The ranges by a method; what training has learned goes before what was observed."""
        scales = seen.scales(method)
        return replace(scales, ranges={**scales.ranges, **self._learned})

    def choose_method(self, seen: Seen) -> tuple[Choice, Trials]:
        parameters = self.step.parameters
        dialect, keep_float = DIALECTS[parameters["dialect"]], parameters["keep_float"]
        trials = try_methods(
            self.network,
            (
                (name, quantize(self.network, self.scales(seen, name), dialect, keep_float=keep_float))
                for name in METHODS
            ),
            self._held_back(),
            outputs=self.split.signature.outputs,
            make_metric=partial(make_metric, parameters["metric"], self.step.code_folder),
            needs_labels=parameters["metric"].get("name") != "fidelity",
            threads=usable_cores(),
        )
        choice = choose(trials.methods)
        if trials.no_metric:
            self.step.say(f"the metric cannot judge the held-back samples: {trials.no_metric}")
        self.step.say(f"calibration method {choice.method}: {choice.reason}")
        return choice, trials

    def _held_back(self) -> list[Iterator[Batch]]:
        """The batches of each group."""
        size = self.split.signature.batch_size(samples_at_once(self.network, _BATCH))
        whole = self.split.signature.batch_size(1)
        units = np.array(self.shares.held_back).reshape(-1, whole)
        parts = [part.ravel().tolist() for part in np.array_split(units, min(GROUPS, len(units)))]
        done = 0

        def batches(part: list[int]) -> Iterator[Batch]:
            nonlocal done
            for batch in self.split.batches(size, order=part):
                self.digests.update(digests_of(batch.inputs))
                self.step.progress(done, len(self.shares.held_back), "comparing methods")
                done += len(batch)
                yield batch

        return [batches(part) for part in parts]


def _metric_name(step: RunningStep) -> str:
    description: Mapping[str, Any] = step.parameters["metric"]
    return str(description.get("name") or description["factory"])


def _figures(choice: Choice, trials: Trials, held_back: int) -> dict[str, Json]:
    """What people see of the trials in one line."""
    shown: dict[str, Json] = {"chosen_by": choice.chosen_by, "held_back": held_back}
    for trial in trials.methods:
        accuracy = "" if trial.accuracy is None else f" {trial.accuracy:.2%}"
        shown[trial.method] = f"{trial.signal_to_noise_db:.1f} dB{accuracy}"
    return shown
