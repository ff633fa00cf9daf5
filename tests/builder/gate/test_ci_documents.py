"""The ready-made CI jobs are valid, and ask the gate for nothing that it does not know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginewright.cli import main

FOLDER = Path(__file__).parents[3] / "docs/ci"


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_a_job_calls_the_gate_with_options_that_it_has(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / name).read_text()
    commands = re.findall(r"enginewright gate (.*?)(?:\|\||\n\s*- |\n\s*#|\n\s*artifacts)", text, flags=re.DOTALL)
    assert len(commands) == 1
    options = set(re.findall(r"(?<!\w)--[a-z-]+", commands[0]))
    assert {"--against", "--max-seconds", "--junit"} <= options
    with pytest.raises(SystemExit):
        main(["gate", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert options <= known


def test_the_github_workflow_gates_pull_requests_and_keeps_the_baseline_of_main() -> None:
    # In YAML 1.1 the key "on" is the boolean true.
    workflow: Any = yaml.safe_load((FOLDER / "github-actions.yml").read_text())
    assert set(workflow[True]) == {"push", "pull_request"}
    steps = {step.get("name"): step for step in workflow["jobs"]["gate"]["steps"]}
    assert steps["Keep the bundle of main as the baseline"]["if"] == "github.event_name == 'push'"
    assert 'test "$code" -eq 4 || exit "$code"' in steps["Gate"]["run"]


def test_the_gitlab_job_warns_where_the_gate_is_inconclusive() -> None:
    jobs: Any = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())
    assert jobs["gate"]["allow_failure"] == {"exit_codes": 4}
    assert jobs["gate"]["artifacts"]["reports"]["junit"] == "gate.xml"
    assert jobs["build"]["artifacts"]["paths"] == ["dist/$RECIPE-$TARGET.ewb"]
