"""From a recipe and a target to a plan: which steps, with which parameters, on whose outputs. Pure: no disk, no clock,
no environment.

The chain is  import -> export -> simplify -> compile -> evaluate  for the reference (the float network as it came),
then [prune -> recover]* -> export -> simplify -> calibrate -> quantize -> compile -> evaluate  for the engine that
ships, then measure (both, side by side) and pack. An order that cannot work (an artifact of the wrong kind) fails here,
before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass

from enginewright.errors import UsageError
from enginewright.graph.dialects import DIALECTS
from enginewright.recipe import Factory, Prune, Quantize, Recipe, Recover, effective_budget
from enginewright.sources import Source, Sources
from enginewright.stages import STAGES, Stage
from enginewright.target import Target
from enginewright_runtime.canonical import Json

__all__ = ["HostFacts", "OutputOf", "Plan", "Step", "check_order", "make_plan"]

# How latencies are taken (docs/measuring.md). `looks`: budgets are judged after this many sessions, and again after the
# next number where that was INCONCLUSIVE.
MEASURING: Mapping[str, Json] = {"looks": [6, 18], "rounds": 40, "chunk": 5}


@dataclass(frozen=True)
class OutputOf:
    """An artifact that an earlier step of the same plan makes."""

    step: str
    output: str


@dataclass(frozen=True)
class Step:
    """One stage with its parameters, the artifacts it takes from earlier steps, and the sources it reads from outside
    the store.
    """

    name: str
    stage: str
    parameters: Mapping[str, Json]
    inputs: Mapping[str, OutputOf] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    recipe: str
    target: str
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


@dataclass(frozen=True)
class HostFacts:
    """What planning must know of the computer that compiles and measures.

    `dialect` names the Q/DQ dialect, `requires` is what an engine made here needs to run, `precision` is the one that
    training is fastest in, `fingerprint` tells whose measurements compare.
    """

    dialect: str
    requires: Mapping[str, str]
    precision: str
    fingerprint: str


def make_plan(recipe: Recipe, target: Target, *, sources: Sources, host: HostFacts) -> Plan:
    """Lay out the steps that make `recipe` for `target`.

    Raises UsageError where the steps do not fit together.
    """
    layout = _Layout(recipe, target, sources, host)
    steps = layout.lay_out()
    check_order(steps, STAGES)
    return Plan(recipe.name, target.name, tuple(steps))


def check_order(steps: list[Step], stages: Mapping[str, Stage]) -> None:
    """Every input must be there, made by an earlier step, and of a kind that the stage takes. Raises UsageError."""
    made: dict[OutputOf, str] = {}
    for step in steps:
        stage = stages[step.stage]
        accepted = {**stage.consumes, **stage.optional}
        for name in stage.consumes:
            if name not in step.inputs:
                raise UsageError(f"step '{step.name}' ({step.stage}) lacks its input '{name}'")
        for name, source in step.inputs.items():
            if name not in accepted:
                raise UsageError(f"step '{step.name}' ({step.stage}) takes no input '{name}'")
            kind = made.get(source)
            if kind is None:
                raise UsageError(
                    f"step '{step.name}' wants '{source.output}' of '{source.step}', which no earlier step makes"
                )
            if kind not in accepted[name]:
                wanted = " or ".join(accepted[name])
                raise UsageError(
                    f"step '{step.name}' ({step.stage}) takes {wanted} as '{name}', but '{source.step}' makes: {kind}",
                    hint="change the order of the steps under 'compress'",
                )
        made.update({OutputOf(step.name, output): kind for output, kind in stage.produces.items()})


class _Layout:
    """Collects the steps of one plan; each method adds the steps of one part and returns where its results are."""

    def __init__(self, recipe: Recipe, target: Target, sources: Sources, host: HostFacts) -> None:
        self.recipe, self.target, self.sources, self.host = recipe, target, sources, host
        self.steps: list[Step] = []

    def lay_out(self) -> list[Step]:
        imported = self._import()
        reference_exported = imported if self.recipe.model.onnx else self._export("reference/export", imported)
        reference = self._simplify("reference/simplify", reference_exported)
        reference_engine = self._compile("reference/compile", reference)
        reference_evaluated = self._evaluate("reference/evaluate", reference_engine, reference_outputs=None)
        network, layers = self._compress(imported, reference)
        engine = self._compile("compile", network)
        evaluated = self._evaluate("evaluate", engine, reference_outputs=OutputOf(reference_evaluated, "outputs"))
        measured = self._add(
            "measure",
            "measure",
            {"host": self.host.fingerprint, **MEASURING, "budget": self._budget()},
            {
                **_engine_of(engine),
                **_engine_of(reference_engine, prefix="reference_"),
                "golden": OutputOf(evaluated, "golden"),
            },
        )
        self._add(
            "pack",
            "pack",
            {
                "name": self.recipe.name,
                "summary": self.recipe.summary,
                "target": self.target.name,
                "target_summary": self.target.summary,
                "recipe": self.recipe.rendered,
                "budget": self._budget(),
                "looks": MEASURING["looks"],
                "model": self._signature(),
            },
            {
                **_engine_of(engine),
                "network": network,
                "layers": layers,
                "evaluation": OutputOf(evaluated, "evaluation"),
                "measurement": OutputOf(measured, "measurement"),
                "reference_engine": OutputOf(reference_engine, "engine"),
                "reference_layers": OutputOf(reference.step, "layers"),
                "reference_evaluation": OutputOf(reference_evaluated, "evaluation"),
                "golden": OutputOf(evaluated, "golden"),
            },
        )
        return self.steps

    def _import(self) -> OutputOf:
        if self.recipe.model.onnx:
            name = self._add("import", "import_onnx", {"model": self._signature()}, sources=("onnx",))
            return OutputOf(name, "exported")
        name = self._add("import", "import", {"model": self._model()}, sources=("weights",), code=True)
        return OutputOf(name, "checkpoint")

    def _compress(self, checkpoint: OutputOf, reference: OutputOf) -> tuple[OutputOf, OutputOf]:
        """The compress steps: returns the network to compile and its layers."""
        current, quantization = checkpoint, None
        for compress in self.recipe.compress:
            if isinstance(compress, Prune):
                parameters = {"model": self._model(), **_json(compress)}
                name = self._add(
                    self._unused("prune"), "prune", parameters, {"checkpoint": current}, data=True, code=True
                )
                current = OutputOf(name, "checkpoint")
            elif isinstance(compress, Recover):
                parameters = {"model": self._model(), "metric": self._metric(), "precision": self.host.precision}
                parameters.update(_json(compress))
                inputs = {"checkpoint": current}
                if compress.distill is not None:
                    inputs["teacher"] = checkpoint
                name = self._add(self._unused("recover"), "recover", parameters, inputs, data=True, code=True)
                current = OutputOf(name, "checkpoint")
            else:
                quantization = compress  # the recipe's rules let nothing follow it
        network = reference if current == checkpoint else self._simplify("simplify", self._export("export", current))
        if quantization is None:
            return network, OutputOf(network.step, "layers")
        return self._quantize(network, quantization)

    def _quantize(self, network: OutputOf, quantize: Quantize) -> tuple[OutputOf, OutputOf]:
        parameters = {"model": self._signature(), **_json(quantize.calibration)}
        scales = self._add("calibrate", "calibrate", parameters, {"network": network}, data=True)
        name = self._add(
            "quantize",
            "quantize",
            {"model": self._signature(), "dialect": self.host.dialect, "keep_float": list(quantize.keep_float)},
            {"network": network, "scales": OutputOf(scales, "scales")},
            data=True,
        )
        return OutputOf(name, "quantized"), OutputOf(name, "layers")

    def _export(self, name: str, checkpoint: OutputOf) -> OutputOf:
        return OutputOf(
            self._add(name, "export", {"model": self._model()}, {"checkpoint": checkpoint}, code=True), "exported"
        )

    def _simplify(self, name: str, exported: OutputOf) -> OutputOf:
        return OutputOf(self._add(name, "simplify", {"model": self._signature()}, {"exported": exported}), "network")

    def _compile(self, name: str, network: OutputOf) -> str:
        settings: dict[str, Json] = dict(self.target.engine_settings())
        if network.output == "quantized":
            dialect = DIALECTS[self.host.dialect]
            settings.update(disable=list(dialect.disabled_optimizers), config=dict(dialect.session_config))
        parameters: dict[str, Json] = {
            "backend": self.target.backend,
            "settings": settings,
            "requires": dict(self.host.requires),
        }
        return self._add(name, "compile", parameters, {"network": network})

    def _evaluate(self, name: str, engine: str, *, reference_outputs: OutputOf | None) -> str:
        inputs = dict(_engine_of(engine))
        if reference_outputs is not None:
            inputs["reference_outputs"] = reference_outputs
        return self._add(name, "evaluate", {"model": self._signature(), "metric": self._metric()}, inputs, data=True)

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
            parameters["data"] = self._factory("data", self.recipe.data)
            used.update(self.sources.arguments_of("data"))
        if code:
            used.update(self.sources.arguments_of("model"))
        if "metric" in parameters:
            used.update(self.sources.arguments_of("metric"))
        if data or code:
            used.update(self.sources.code)
        self.steps.append(Step(name, stage, parameters, inputs or {}, used))
        return name

    def _unused(self, stage: str) -> str:
        taken = sum(step.stage == stage for step in self.steps)
        return stage if taken == 0 else f"{stage}-{taken + 1}"

    def _signature(self) -> Json:
        """The network's inputs and outputs, as the recipe states them."""
        model = self.recipe.model
        inputs: dict[str, Json] = {
            name: {"shape": list(spec.shape), "dtype": spec.dtype} for name, spec in model.inputs.items()
        }
        return {"inputs": inputs, "outputs": list(model.outputs)}

    def _model(self) -> Json:
        model = self.recipe.model
        signature = self._signature()
        assert isinstance(signature, dict)
        arguments = self.sources.content_of("model.arguments", model.arguments)
        return {"factory": model.factory, "arguments": arguments, **signature}

    def _factory(self, part: str, factory: Factory) -> Json:
        return {
            "factory": factory.factory,
            "arguments": self.sources.content_of(f"{part}.arguments", factory.arguments),
        }

    def _metric(self) -> Json:
        metric = self.recipe.metric
        if isinstance(metric, str):
            return {"name": metric}
        return self._factory("metric", metric)

    def _budget(self) -> Json:
        return dict(effective_budget(self.recipe, self.target.name))


def _engine_of(step: str, *, prefix: str = "") -> dict[str, OutputOf]:
    return {f"{prefix}engine": OutputOf(step, "engine"), f"{prefix}entry": OutputOf(step, "entry")}


def _json(settings: object) -> dict[str, Json]:
    """A frozen settings dataclass as plain JSON: tuples become lists, nested dataclasses objects."""

    def plain(value: object) -> Json:
        if is_dataclass(value) and not isinstance(value, type):
            return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        assert value is None or isinstance(value, (bool, int, float, str))
        return value

    result = plain(settings)
    assert isinstance(result, dict)
    return result
