"""Import: the recipe's factory and its weights become a checkpoint. The network must load strictly and give finite
outputs.
"""

from __future__ import annotations

from enginewright.checkpoint import make_network, read_weights, save_checkpoint
from enginewright.networks import checked_outputs
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    model = step.parameters["model"]
    weights = step.inputs["weights"]
    state = read_weights(weights, weights.suffix)
    network = make_network(model, step.code_folder, state, ())
    signature = Signature.from_json(model)
    checked_outputs(network, signature.example(batch=2), signature)
    save_checkpoint(step.output("checkpoint"), network.state_dict(), ())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Outcome({"parameters": parameters, "tensors": len(state)})
