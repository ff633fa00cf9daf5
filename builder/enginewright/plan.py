"""From a recipe and a target to a plan: which steps, with which parameters, on whose outputs. Pure: no disk, no clock,
no environment.

The chain is  import -> export -> simplify -> compile -> evaluate  for the reference (the float network as it came),
then [prune -> recover]* -> export -> simplify -> calibrate -> quantize -> compile -> evaluate  for the engine that
ships, then measure (both, side by side) and pack. An order that cannot work (an artifact of the wrong kind) fails here,
before anything runs.

Where the engine does not run on this computer, what is compiled and evaluated is its twin, which ONNX Runtime runs; then
come check (the structure, by TensorRT-RTX) and pack_pending, in place of measure and pack.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields

from enginewright.compression import (
    CompressStep,
    Distill,
    Factorize,
    Prune,
    PruneBlocks,
    Quantize,
    Recalibrate,
    Recover,
    Sparsify,
    Student,
    Training,
)
from enginewright.engine_settings import DLA_BATCH, TWIN_TOLERANCE, own_settings, twin_settings, typed_by_the_network
from enginewright.errors import UsageError
from enginewright.plain_json import plain_json
from enginewright.recipe import Factory, Recipe, effective_budget
from enginewright.roofline import Rates, rates_of
from enginewright.sources import Source, Sources
from enginewright.stages import STAGES
from enginewright.step_parameters import factory_of, metric_of, model_of, signature_of
from enginewright.steps import HostFacts, OutputOf, Plan, Step, check_order
from enginewright.target import Target
from enginewright_runtime.canonical import Json

__all__ = ["HostFacts", "OutputOf", "Plan", "Step", "check_order", "make_plan"]

# How latencies are taken (docs/measuring.md). `looks`: budgets are judged after this many sessions, and again after the
# next number where that was INCONCLUSIVE. `evicted`: how many sessions, and samples of each engine in them, are taken
# with evicted caches.
MEASURING: Mapping[str, Json] = {
    "looks": [6, 18],
    "rounds": 40,
    "chunk": 5,
    "evicted": {"sessions": 3, "samples": 20},
}


def make_plan(recipe: Recipe, target: Target, *, sources: Sources, host: HostFacts) -> Plan:
    """Lay out the steps that make `recipe` for `target`.

    Raises UsageError where the steps do not fit together.
    """
    layout = _Layout(recipe, target, sources, host)
    steps = layout.lay_out()
    check_order(steps, STAGES)
    return Plan(recipe.name, target.name, tuple(steps))


class _Layout:
    """Collects the steps of one plan; each method adds the steps of one part and returns where its results are."""

    def __init__(self, recipe: Recipe, target: Target, sources: Sources, host: HostFacts) -> None:
        self.recipe, self.target, self.sources, self.host = recipe, target, sources, host
        self.steps: list[Step] = []
        self.student: Factory | None = None  # once the network is another than the recipe's
        self.learned: OutputOf | None = None  # the ranges of training with int8 simulated
        self.unquantized: OutputOf | None = None  # the network that was quantized, without its pairs
        self.decided: dict[str, OutputOf] = {}  # what compression decided, for the report
        self.own = own_settings(recipe, target, host.dialect)
        self.used = twin_settings(target, host.dialect) if host.pending else self.own  # what runs here

    def lay_out(self) -> list[Step]:
        imported = self._import()
        reference_exported = imported if self.recipe.model.onnx else self._export("reference/export", imported)
        reference = self._simplify("reference/simplify", reference_exported)
        reference_engine = self._compile("reference/compile", reference)
        reference_evaluated = self._evaluate("reference/evaluate", reference_engine, reference_outputs=None)
        network, layers = self._compress(imported, reference)
        engine = self._compile("twin/compile" if self.host.pending else "compile", network)
        evaluated = self._evaluate("evaluate", engine, reference_outputs=OutputOf(reference_evaluated, "outputs"))
        packed = {
            "network": network,
            "layers": layers,
            "evaluation": OutputOf(evaluated, "evaluation"),
            "reference_layers": OutputOf(reference.step, "layers"),
            "reference_evaluation": OutputOf(reference_evaluated, "evaluation"),
            "golden": OutputOf(evaluated, "golden"),
            **self.decided,
        }
        if self.host.pending:
            self._pack_pending(network, engine, packed)
        else:
            self._measure_and_pack(engine, reference_engine, packed)
        return self.steps

    def _measure_and_pack(self, engine: str, reference_engine: str, packed: Mapping[str, OutputOf]) -> None:
        measured = self._add(
            "measure",
            "measure",
            {"host": self.host.fingerprint, **MEASURING, "budget": self._budget()},
            {
                **_engine_of(engine),
                **_engine_of(reference_engine, prefix="reference_"),
                "golden": packed["golden"],
            },
        )
        inputs = {
            **packed,
            **_engine_of(engine),
            "measurement": OutputOf(measured, "measurement"),
            "measurement_evicted": OutputOf(measured, "measurement_evicted"),
            "engine_layers": OutputOf(measured, "engine_layers"),
            "reference_engine": OutputOf(reference_engine, "engine"),
        }
        frontier = ("frontier",) if "frontier" in self.sources.files else ()
        parameters = {**self._packed_parameters(), "looks": MEASURING["looks"]}
        self._add("pack", "pack", parameters, inputs, sources=frontier)

    def _pack_pending(self, network: OutputOf, twin: str, packed: Mapping[str, OutputOf]) -> None:
        """The bundle of an engine that runs elsewhere; `twin` is the step that compiled what was evaluated."""
        inputs = {**packed, "twin": OutputOf(twin, "engine"), "twin_entry": OutputOf(twin, "entry")}
        settings = self.own.quantized if network.output == "quantized" else self.own.plain
        compiled_from = network
        if self.target.on_gpu:
            if self.unquantized is not None:  # int8 is measured beside it
                inputs["unquantized"] = self._half("unquantized/half", self.unquantized)
                if self.target.dla_core is not None:  # up to TensorRT 10 it takes no Q/DQ pairs
                    inputs["calibrated"] = self.unquantized
            if self.target.precision == "float16":
                # The device's TensorRT may go by flags or by types: the bundle has a network for each.
                inputs["half"] = self._half("half", network)
                compiled_from = inputs["half"] if typed_by_the_network(self.target, self.host.requires) else network
        if self.host.checker and self.target.on_gpu:
            check: dict[str, Json] = {
                "checker": self.host.checker,
                "compute_capability": self.target.compute_capability,
                "sizes": self.own.plain["sizes"],
            }
            others = {name: inputs[name] for name in ("unquantized",) if name in inputs}
            name = self._add("check", "check", check, {"network": compiled_from, "layers": packed["layers"], **others})
            inputs["structure"] = OutputOf(name, "structure")
        if self.host.requires:
            compiled: dict[str, Json] = {
                "backend": self.own.backend,
                "settings": dict(settings),
                "requires": dict(self.host.requires),
            }
            inputs.update(_engine_of(self._add("compile", "compile", compiled, {"network": compiled_from})))
        parameters: dict[str, Json] = {
            **self._packed_parameters(),
            "backend": self.own.backend,
            "settings": dict(settings),
            "requires": dict(self.target.needs()),
            "rates": dict(vars(rates_of(self.target))),
            "reason": self.host.pending,
            "power_mode": self.target.power_mode,
            # A DLA that takes no Q/DQ pairs wants the same scales as a file.
            "calibration_cache_for": self.target.tensorrt if self.target.dla_cores else None,
        }
        self._add("pack", "pack_pending", parameters, inputs)

    def _packed_parameters(self) -> dict[str, Json]:
        return {
            "name": self.recipe.name,
            "summary": self.recipe.summary,
            "sequence": self.recipe.sequence,
            "target": self.target.name,
            "target_summary": self.target.summary,
            "recipe": self.recipe.rendered,
            "budget": self._budget(),
            "model": signature_of(self.recipe),
        }

    def _import(self) -> OutputOf:
        if self.recipe.model.onnx:
            name = self._add("import", "import_onnx", {"model": signature_of(self.recipe)}, sources=("onnx",))
            return OutputOf(name, "exported")
        name = self._add("import", "import", {"model": self._model()}, sources=("weights",), code=True)
        return OutputOf(name, "checkpoint")

    def _compress(self, checkpoint: OutputOf, reference: OutputOf) -> tuple[OutputOf, OutputOf]:
        """The compress steps: returns the network to compile and its layers."""
        current, quantization = checkpoint, None
        for compress in self.recipe.compress:
            if isinstance(compress, Quantize):
                quantization = compress  # the recipe's rules let nothing follow it
            else:
                current = self._compress_checkpoint(compress, current, teacher=checkpoint)
        network = reference if current == checkpoint else self._simplify("simplify", self._export("export", current))
        if quantization is None:
            return network, OutputOf(network.step, "layers")
        return self._quantize(network, quantization)

    def _compress_checkpoint(self, compress: CompressStep, current: OutputOf, *, teacher: OutputOf) -> OutputOf:
        if isinstance(compress, Prune):
            return self._prune(compress, current, teacher)
        if isinstance(compress, Recover):
            return self._train("recover", compress, current, teacher, compress.distill, quantized=compress.quantized)
        if isinstance(compress, Student):
            return self._distill(compress, current)
        parameters = {"model": self._model(), **plain_json(compress)}
        if isinstance(compress, PruneBlocks):
            if self.host.pending:
                raise UsageError(
                    f"prune_blocks measures blocks on the target, and '{self.target.name}' is not here: {self.host.pending}",
                    hint="build where the device is, or prune channels",
                )
            parameters.update(host=self.host.fingerprint, **self.used.to_json())
            name = self._add(
                self._unused("prune_blocks"), "prune_blocks", parameters, {"checkpoint": current}, data=True, code=True
            )
            self.decided["blocks"] = OutputOf(name, "blocks")
        elif isinstance(compress, Recalibrate):
            name = self._add(
                self._unused("recalibrate"), "recalibrate", parameters, {"checkpoint": current}, data=True, code=True
            )
        else:
            assert isinstance(compress, (Factorize, Sparsify))
            if isinstance(compress, Sparsify):
                parameters["backend"] = self.target.backend  # whether its engines gain from the zeros is said
            name = self._add(self._unused(compress.KEY), compress.KEY, parameters, {"checkpoint": current}, code=True)
        return OutputOf(name, "checkpoint")

    def _prune(self, prune: Prune, current: OutputOf, teacher: OutputOf) -> OutputOf:
        settings = plain_json(prune)
        del settings["rounds"], settings["between"]
        # Every round removes the same share of what it finds, and all of them together what is asked for.
        settings["macs"] = prune.macs if prune.rounds == 1 else round(1 - (1 - prune.macs) ** (1 / prune.rounds), 6)
        settings["round_to"] = prune.round_to or self.target.channel_multiple
        for number in range(prune.rounds):
            if number and prune.between is not None:
                between = prune.between
                current = self._train("recover", between, current, teacher, between.distill, quantized=False)
            parameters = {"model": self._model(), **settings}
            name = self._add(self._unused("prune"), "prune", parameters, {"checkpoint": current}, data=True, code=True)
            current = OutputOf(name, "checkpoint")
        return current

    def _distill(self, student: Student, teacher: OutputOf) -> OutputOf:
        inputs = {"teacher": teacher} if student.inherit else {}
        self.student = Factory(factory=student.factory, arguments=student.arguments)
        parameters: dict[str, Json] = {"model": self._model(), "seed": student.seed}
        made = OutputOf(self._add("student", "student", parameters, inputs, code=True), "checkpoint")
        return self._train("distill", student, made, teacher, student.distill, quantized=False)

    def _train(
        self,
        name: str,
        training: Training,
        current: OutputOf,
        teacher: OutputOf,
        distill: Distill | None,
        *,
        quantized: bool,
    ) -> OutputOf:
        parameters: dict[str, Json] = {
            "model": self._model(),
            "metric": metric_of(self.recipe, self.sources),
            "precision": self.host.precision,
            **{item.name: getattr(training, item.name) for item in fields(Training)},
            "distill": None if distill is None else plain_json(distill),
            "quantized": quantized,
        }
        if quantized:
            parameters["dialect"] = self.host.dialect
        inputs = {"checkpoint": current}
        if distill is not None:
            parameters["teacher_model"] = model_of(self.recipe, self.sources)
            inputs["teacher"] = teacher
        step = self._add(self._unused(name), "recover", parameters, inputs, data=True, code=True)
        trained = sum(item.stage == "recover" for item in self.steps)
        self.decided[f"curve-{trained}"] = OutputOf(step, "curve")
        if quantized:
            self.learned = OutputOf(step, "ranges")
        return OutputOf(step, "checkpoint")

    def _quantize(self, network: OutputOf, quantize: Quantize) -> tuple[OutputOf, OutputOf]:
        if quantize.equalize:
            equalized = self._add("equalize", "equalize", {"model": signature_of(self.recipe)}, {"network": network})
            network = OutputOf(equalized, "network")
        self.unquantized = network
        kept = [] if quantize.keep_float == "auto" else list(quantize.keep_float)
        common: dict[str, Json] = {"model": signature_of(self.recipe), "dialect": self.host.dialect, "keep_float": kept}
        parameters = {"model": signature_of(self.recipe), **plain_json(quantize.calibration)}
        if quantize.calibration.method == "auto":
            parameters.update(
                common, metric=metric_of(self.recipe, self.sources)
            )  # the methods are compared on the quantized network
        inputs = {"network": network}
        learned = {} if self.learned is None else {"learned": self.learned}
        calibrated = self._add("calibrate", "calibrate", parameters, {**inputs, **learned}, data=True)
        inputs["scales"] = self.decided["scales"] = OutputOf(calibrated, "scales")
        rates = rates_of(self.target)
        if quantize.keep_float == "auto" and self._can_assign(quantize, rates):
            parameters = {
                **common,
                "metric": metric_of(self.recipe, self.sources),
                "accuracy_drop": quantize.accuracy_drop,
                **({"rates": dict(vars(rates))} if self.host.pending else {"host": self.host.fingerprint}),
                **self.used.to_json(),
            }
            assigned = self._add("assign_precision", "assign_precision", parameters, inputs, data=True)
            inputs["precision"] = self.decided["precision"] = OutputOf(assigned, "precision")
        constants: dict[str, Json] = {"rounding": quantize.rounding, "correct_bias": quantize.correct_bias}
        name = self._add("quantize", "quantize", {**common, **constants}, inputs, data=True)
        return OutputOf(name, "quantized"), OutputOf(name, "layers")

    def _can_assign(self, quantize: Quantize, rates: Rates) -> bool:
        """Whether int8 and float can be compared: by a clock here, or by the rates of a target that is elsewhere."""
        if not self.host.pending or rates.compares_precisions:
            return True
        if quantize.accuracy_drop is not None:
            raise UsageError(
                f"accuracy_drop under quantize lets layers return to float, and of '{self.target.name}' the rates that tell "
                "which are worth it are not known",
                hint="give the target int8_tops and float16_tflops, or name the layers in keep_float",
            )
        return False

    def _export(self, name: str, checkpoint: OutputOf) -> OutputOf:
        return OutputOf(
            self._add(name, "export", {"model": self._model()}, {"checkpoint": checkpoint}, code=True), "exported"
        )

    def _simplify(self, name: str, exported: OutputOf) -> OutputOf:
        return OutputOf(
            self._add(name, "simplify", {"model": signature_of(self.recipe)}, {"exported": exported}), "network"
        )

    def _compile(self, name: str, network: OutputOf) -> str:
        """Compile what runs here."""
        parameters: dict[str, Json] = {
            "backend": self.used.backend,
            "settings": dict(self.used.quantized if network.output == "quantized" else self.used.plain),
            "requires": dict(self.host.twin_requires if self.host.pending else self.host.requires),
        }
        in_half = self.target.precision == "float16" and typed_by_the_network(self.target, self.host.requires)
        if in_half and not self.host.pending:
            network = self._half(name.replace("compile", "half"), network)
        return self._add(name, "compile", parameters, {"network": network})

    def _half(self, name: str, network: OutputOf) -> OutputOf:
        return OutputOf(self._add(name, "half", {}, {"network": network}), "network")

    def _evaluate(self, name: str, engine: str, *, reference_outputs: OutputOf | None) -> str:
        inputs = dict(_engine_of(engine))
        if reference_outputs is not None:
            inputs["reference_outputs"] = reference_outputs
        parameters: dict[str, Json] = {
            "model": signature_of(self.recipe),
            "metric": metric_of(self.recipe, self.sources),
        }
        if self.host.pending:
            parameters["golden_tolerance"] = TWIN_TOLERANCE
        if self.target.dla_core is not None:
            parameters["largest_batch"] = DLA_BATCH
        return self._add(name, "evaluate", parameters, inputs, data=True)

    def _add(
        self,
        name: str,
        stage: str,
        parameters: Mapping[str, Json],
        inputs: Mapping[str, OutputOf] | None = None,
        *,
        sources: tuple[str, ...] = (),
        data: bool = False,
        code: bool = False,
    ) -> str:
        """Append a step. `data`: it reads the recipe's data factory; `code`: it makes the recipe's model."""
        used: dict[str, Source] = {label: self.sources.files[label] for label in sources}
        parameters = dict(parameters)
        if data:
            parameters["data"] = factory_of("data", self.recipe.data, self.sources)
            used.update(self.sources.arguments_of("data"))
        if code:
            used.update(self.sources.arguments_of("model"))
            used.update(self.sources.arguments_of("student"))
        if "metric" in parameters:
            used.update(self.sources.arguments_of("metric"))
        if data or code:
            used.update(self.sources.code)
        self.steps.append(Step(name, stage, parameters, dict(inputs or {}), used))
        return name

    def _unused(self, name: str) -> str:
        taken = {step.name for step in self.steps}
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        return name if name not in taken else next(item for item in numbered if item not in taken)

    def _model(self) -> Json:
        """The network as it is now: the recipe's, or the student."""
        if self.student is None:
            return model_of(self.recipe, self.sources)
        return {**factory_of("student", self.student, self.sources), **signature_of(self.recipe)}

    def _budget(self) -> Json:
        return dict(effective_budget(self.recipe, self.target.name))


def _engine_of(step: str, *, prefix: str = "") -> dict[str, OutputOf]:
    return {f"{prefix}engine": OutputOf(step, "engine"), f"{prefix}entry": OutputOf(step, "entry")}
