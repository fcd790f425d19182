"""Reading a config: a TOML file, dotted overrides, and what is wrong with them in lines for the user."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cluster.config.schema import RunConfig
from learner.objectives.config import SETTINGS, ObjectiveConfig
from verifiers.problems.config import WITHOUT_EFFECT
from verifiers.section_config import did_you_mean

Section = TypeVar("Section", bound=BaseModel)
NONE = "none"
"""Of a section: that there is none."""
_OBJECTIVES_WITHOUT = {
    name: ObjectiveConfig.model_fields.keys() - {"name", *own} for name, own in SETTINGS.items()
}


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file and apply `key.path=value` overrides (values in TOML syntax; bare words are strings; none leaves out
    a section that may be left out).

    An override of `objective.name`, `objective.score_transform` or `problems.source` leaves out what the file sets for its
    own only.
    Raises ValueError, one line per problem, each naming the dotted path, the value and the remedy.
    """
    try:
        settings = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"config {path} does not exist: see examples/ for one to start from") from None
    except OSError as error:
        raise ValueError(f"config {path} cannot be read ({error.strerror}): give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path} is not valid TOML: {error}") from None
    _make_room(settings, overrides, "objective.name", _OBJECTIVES_WITHOUT)
    _make_room(settings, overrides, "objective.score_transform", {"none": ["base_samples"]})
    _make_room(settings, overrides, "problems.source", WITHOUT_EFFECT)
    for override in overrides:
        if not _leave_out(settings, override):
            _apply_override(settings, override)
    given = [override.partition("=")[0].strip() for override in overrides]
    return parse_config(settings, source=str(path), overridden=given)


def is_override(argument: str) -> bool:
    """Whether a KEY=VALUE names a setting: its key has a dot, and a section of the config before it."""
    section, dot, _ = argument.partition("=")[0].partition(".")
    field = RunConfig.model_fields.get(section)
    return bool(dot) and "=" in argument and field is not None and section_of(field.annotation) is not None


def parse_config(
    settings: dict[str, Any], *, source: str = "config", overridden: Sequence[str] = ()
) -> RunConfig:
    """Validate settings, those `overridden` on the command line and the rest from `source`.

    Raises ValueError, one line per problem.
    """

    def located(line: str) -> str:
        # A line begins with the path at fault; an override may have set all of a section.
        path = line.partition(" ")[0]
        given = any(path == key or path.startswith(f"{key}.") for key in overridden)
        return f"{'command line' if given else source}: {line}"

    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        lines = [located(line) for problem in _faults(error) for line in _describe(problem)]
        raise ValueError("\n".join(lines)) from None


def parse_section(section: type[Section], overrides: Sequence[str]) -> Section:
    """A section of its own, from `key=value` alone. Raises ValueError, one line per problem."""
    settings: dict[str, Any] = {}
    for override in overrides:
        _apply_override(settings, override)
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        lines = [line for problem in _faults(error) for line in _describe(problem, section)]
        raise ValueError("\n".join(lines)) from None


def _make_room(
    settings: dict[str, Any],
    overrides: Sequence[str],
    key: str,
    without_effect: Mapping[str, Collection[str]],
) -> None:
    """Drop from the file's section what has no effect beside the value that an override gives to `key`."""
    section_name = key.partition(".")[0]
    pairs = [override.partition("=") for override in overrides]
    values = [text.strip(" \"'") for name, _, text in pairs if name.strip() == key]
    section = settings.get(section_name)
    if not values or values[-1] not in without_effect or not isinstance(section, dict):
        return
    others = without_effect[values[-1]]
    settings[section_name] = {name: value for name, value in section.items() if name not in others}


def _leave_out(settings: dict[str, Any], override: str) -> bool:
    """Whether it is `section=none`, of a section that may be left out; then that is done."""
    key, _, text = override.partition("=")
    *parents, leaf = key.strip().split(".")
    field = _field((*parents, leaf), RunConfig)
    if field is None or text.strip(" \"'") != NONE or not _may_be_left_out(field.annotation):
        return False
    section: Any = settings
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if isinstance(section, dict):
        section.pop(leaf, None)
    return True


def _may_be_left_out(annotation: Any) -> bool:
    return section_of(annotation) is not None and type(None) in getattr(annotation, "__args__", ())


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.strip().split(".")):
        raise ValueError(f"override {override!r} is not of the form key.path=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, leaf = key.strip().split(".")
    section = settings
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ValueError(  # noqa: TRY004 - the user's text is wrong, not a type
                f"override {override!r}: {parent!r} is a setting, not a section"
            )
    section[leaf] = value


def _faults(error: ValidationError) -> list[Any]:
    """The user's own: a default that could not be found because of another fault is none."""
    return [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]


def _describe(problem: Any, model: type[BaseModel] = RunConfig) -> list[str]:
    """One line per fault. A section's own check names its settings first, with their section or without."""
    path = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return [
            f"{path} is not a setting{_suggestion(problem['loc'], model)}; remove it or see `bonfire settings`"
        ]
    if problem["type"] == "missing":
        return [f"{path} is missing: set it in the file or give {path}=... on the command line"]
    if problem["type"] == "value_error":
        section = f"{path}." if path else ""
        # A setting's own check begins with what is wrong with the value: `= 'x' is no ...`.
        return [
            f"{path} {line}" if line.startswith("= ") else section + line.removeprefix(section)
            for line in message.splitlines()
        ]
    if problem["type"] == "model_type":
        field = _field(problem["loc"], model)
        leave_out = (
            f", or {path}={NONE} to leave it out" if field and _may_be_left_out(field.annotation) else ""
        )
        return [f"{path} = {problem['input']!r} is a section, not a setting: give its settings{leave_out}"]
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        message += did_you_mean(problem["input"], choices)
    if problem["type"] == "finite_number" and problem["input"] == math.inf:
        message += ": give a large one, such as 1e9, for a limit that is never to be reached"
    return [f"{path} = {problem['input']!r}: {message[0].lower()}{message[1:]}"]


def _field(location: tuple[Any, ...], model: Any) -> Any:
    """What the model knows of the setting or section at this place; None: nothing."""
    field = None
    for part in location:
        field = model.model_fields.get(str(part)) if model is not None else None
        model = section_of(field.annotation) if field else None
    return field


def _suggestion(location: tuple[Any, ...], model: Any) -> str:
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        model = section_of(field.annotation) if field else None
        if model is None:
            return ""
    prefix = ".".join([*map(str, location[:-1]), ""])
    return did_you_mean(str(location[-1]), list(model.model_fields), prefix=prefix)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds, also if it may be left out; None for a plain setting."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
