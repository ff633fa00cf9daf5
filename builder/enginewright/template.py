"""Recipes are Jinja2 templates, rendered in a sandbox that sees the environment, the target and what `--set` gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn

from jinja2 import StrictUndefined, TemplateRuntimeError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from enginewright.errors import Problem, RecipeError, UsageError, did_you_mean
from enginewright.source import Scalar as SettingValue
from enginewright.source import ScalarNode, parse_yaml, plain_value

if TYPE_CHECKING:
    from enginewright.target import Target

__all__ = ["SettingValue", "parse_settings", "render"]

_RESERVED = ("env", "target")
_COMPILED = "<template>"  # the file name that Jinja2 gives to code made from a string
_REACHES_OUT = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


def parse_settings(assignments: Iterable[str]) -> dict[str, SettingValue]:
    """The values of `--set name=value`, each a YAML scalar. Raises UsageError.

    >>> parse_settings(["macs=0.5", "root=/data/signs", 'label="12"'])
    {'macs': 0.5, 'root': '/data/signs', 'label': '12'}
    """
    settings: dict[str, SettingValue] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise UsageError(f"--set takes name=value, got '{assignment}'", hint="for example --set macs=0.5")
        if name in _RESERVED:
            raise UsageError(
                f"--set cannot give '{name}': in a recipe it stands for {_meaning(name)}", hint="choose another name"
            )
        if name in settings:
            raise UsageError(f"--set gives '{name}' twice", hint="give it once")
        settings[name] = _setting_value(text)
    return settings


def render(
    text: str, *, label: str, target: Target, settings: Mapping[str, SettingValue], environment: Mapping[str, str]
) -> str:
    """Render the text of the recipe that messages call `label`.

    In scope are `env`, `target` and every setting. Raises RecipeError with the line of the template, and UsageError for
    a setting that the template does not use.
    """
    fields = {name: value for name, value in vars(target).items() if isinstance(value, (bool, int, float, str))}
    scope: dict[str, object] = {**settings, "env": dict(environment), "target": fields}
    sandbox = ImmutableSandboxedEnvironment(
        undefined=_undefined_within(scope), finalize=_as_yaml, keep_trailing_newline=True, autoescape=False
    )
    try:
        tree = sandbox.parse(text)
        for node in tree.find_all(_REACHES_OUT):
            _refuse(label, node.lineno, "a recipe stands alone: include, import and extends are not available in it")
        used = find_undeclared_variables(tree) - {*_RESERVED, *sandbox.globals}
        compiled = sandbox.from_string(tree)
    except TemplateSyntaxError as error:
        _refuse(label, error.lineno, f"the template does not parse: {error.message}")
    except RecursionError:
        _refuse(label, None, "the template does not parse: an expression in it is nested too deep")
    for name in settings:
        if name not in used:
            meant = did_you_mean(name, sorted(used), otherwise="It uses")
            raise UsageError(
                f"{label} does not use '{name}', which --set gives. {meant}",
                hint=f"correct the name, or write {{{{ {name} }}}} in the recipe where the value belongs",
            )
    try:
        return compiled.render(scope)
    except Exception as error:  # a template is the user's code: whatever it raises is said to be at its line
        _refuse(label, _line_of(error), f"the template does not render: {_said(error)}")


def _setting_value(text: str) -> SettingValue:
    if not text.startswith(('"', "'")):
        return plain_value(text) if text else ""
    root = parse_yaml(text, label="--set").root
    if not isinstance(root, ScalarNode):
        raise UsageError(f"--set: the value {text} is not a quoted text", hint="close the quotes")
    return root.text


def _undefined_within(scope: Mapping[str, object]) -> type[StrictUndefined]:
    """What stands for a name that does not exist: its message says what to write in its place."""

    class Undefined(StrictUndefined):
        def __init__(
            self,
            hint: str | None = None,
            obj: object = missing,
            name: str | None = None,
            exc: type[TemplateRuntimeError] = UndefinedError,
        ) -> None:
            if hint is None and name is not None:
                hint = _explained(scope, obj, str(name))
            super().__init__(hint, obj, name, exc)

    return Undefined


def _explained(scope: Mapping[str, object], parent: object, name: str) -> str | None:
    if parent is scope["env"]:
        default = f"{{{{ env.{name} | default('') }}}}"
        return f"the environment variable {name} is not set; set it, or write a default: {default}"
    if parent is scope["target"]:
        assert isinstance(parent, dict)
        return f"a target has no '{name}'. {did_you_mean(name, parent, otherwise='It has')}"
    if parent is missing:
        meant = did_you_mean(name, scope, otherwise="In scope are")
        return f"'{name}' is not defined. {meant} Or give it with --set {name}=..."
    return None


def _as_yaml(value: object) -> object:
    """Python's True and None in the spelling of YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value


def _line_of(error: Exception) -> int | None:
    """The line of the template in which rendering stopped; Jinja2 puts it into the traceback."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _COMPILED:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _said(error: Exception) -> str:
    text = str(error)
    known = type(error).__module__.startswith("jinja2")
    return text if known and text else f"{type(error).__name__}: {text}"


def _meaning(name: str) -> str:
    return "the environment variables" if name == "env" else "the target"


def _refuse(label: str, line: int | None, sentence: str) -> NoReturn:
    raise RecipeError([Problem(label, line, sentence)]) from None
