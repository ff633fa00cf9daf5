"""What a recipe's network, data and metric are in the parameters of steps: by their content, never by a path. Pure."""

from __future__ import annotations

from enginewright.recipe import Factory, Recipe
from enginewright.sources import Sources
from enginewright_runtime.canonical import Json

__all__ = ["factory_of", "metric_of", "model_of", "signature_of"]


def signature_of(recipe: Recipe) -> dict[str, Json]:
    """The network's inputs and outputs, as the recipe states them."""
    inputs: dict[str, Json] = {
        name: {"shape": list(spec.shape), "dtype": spec.dtype} for name, spec in recipe.model.inputs.items()
    }
    return {"inputs": inputs, "outputs": list(recipe.model.outputs)}


def model_of(recipe: Recipe, sources: Sources) -> dict[str, Json]:
    """The recipe's own network, whatever compression has made of it."""
    arguments = sources.content_of("model.arguments", recipe.model.arguments)
    return {"factory": recipe.model.factory, "arguments": arguments, **signature_of(recipe)}


def factory_of(part: str, factory: Factory, sources: Sources) -> dict[str, Json]:
    """The factory under the recipe's key `part`, with its arguments."""
    return {"factory": factory.factory, "arguments": sources.content_of(f"{part}.arguments", factory.arguments)}


def metric_of(recipe: Recipe, sources: Sources) -> dict[str, Json]:
    """The metric by its name, or by its factory."""
    if isinstance(recipe.metric, str):
        return {"name": recipe.metric}
    return factory_of("metric", recipe.metric, sources)
