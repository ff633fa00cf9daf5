"""Student: the checkpoint of another architecture, with the teacher's tensors where name and shape agree and the
factory's own elsewhere.
"""

from __future__ import annotations

from enginewright.checkpoint import load_checkpoint, save_checkpoint
from enginewright.errors import DataError
from enginewright.networks import checked_outputs
from enginewright.running import Outcome, RunningStep
from enginewright.signature import Signature
from enginewright.training.trainer import seed_everything
from enginewright.user_code import call_factory

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    from torch import nn

    model = step.parameters["model"]
    seed_everything(step.parameters["seed"])
    network = call_factory(model, step.code_folder)
    if not isinstance(network, nn.Module):
        raise DataError(
            f"the factory {model['factory']} gave a {type(network).__name__}", hint="it must return a torch.nn.Module"
        )
    state = network.state_dict()
    teacher = load_checkpoint(step.inputs["teacher"])[0] if "teacher" in step.inputs else {}
    inherited = {
        name: teacher[name]
        for name, value in state.items()
        if name in teacher and (teacher[name].shape, teacher[name].dtype) == (value.shape, value.dtype)
    }
    network.load_state_dict({**state, **inherited})
    signature = Signature.from_json(model)
    checked_outputs(network.eval(), signature.example(batch=2), signature)
    save_checkpoint(step.output("checkpoint"), network.state_dict(), ())
    return Outcome({"inherited": f"{len(inherited)} of {len(state)} tensors"})
