"""Recover: training after the network was changed, on its labels, and on what the network as it came gives for the same
inputs. Also the training of a student.
"""

from __future__ import annotations

from enginewright.running import Outcome, RunningStep
from enginewright.training.processes import train_in_processes
from enginewright.training.recovery import train

__all__ = ["run"]


def run(step: RunningStep) -> Outcome:
    processes: int = step.parameters["processes"]
    return Outcome(train(step) if processes == 1 else train_in_processes(step, processes))
