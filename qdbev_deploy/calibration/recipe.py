"""Recipes: which tensor gets how many bits, read from YAML and checked against the model."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from qdbev_deploy.calibration.grid import MAX_BITS, MIN_BITS
from qdbev_deploy.errors import QdbevError

Part = Literal["backbone", "neck", "encoder", "decoder"]
PARTS: tuple[Part, ...] = ("backbone", "neck", "encoder", "decoder")  # the order of progressive training
Stage = Literal["backbone", "neck", "encoder", "decoder", "distill"]
STAGES: tuple[Stage, ...] = (*PARTS, "distill")
Scales = Literal["learned", "observed"]  # how training treats them: LSQ's gradients, or left where observing put them

_PART_PREFIXES: tuple[tuple[str, Part], ...] = (
    ("img_backbone.", "backbone"),
    ("img_neck.", "neck"),
    ("pts_bbox_head.transformer.decoder.", "decoder"),
    ("pts_bbox_head.cls_branches.", "decoder"),
    ("pts_bbox_head.reg_branches.", "decoder"),
    ("pts_bbox_head.", "encoder"),
)


def part_of(name: str) -> Part:
    """The part that a module belongs to, for progressive training and for tables."""
    for prefix, part in _PART_PREFIXES:
        if name.startswith(prefix):
            return part
    raise AssertionError(name)


@dataclass(frozen=True)
class Rule:
    """Tensors whose name fits `match` get `bits`; None leaves them in float. Of several that fit, the last counts."""

    match: str
    bits: int | None
    grid: Literal["auto", "signed"] = "auto"  # auto: unsigned where the tensor cannot be negative


@dataclass(frozen=True)
class Recipe:
    """Rules for weights and for activations."""

    name: str
    about: str
    weights: tuple[Rule, ...]
    activations: tuple[Rule, ...]
    # Shares of the training steps: each part joins in turn and stays quantised; then distillation, if there is any.
    schedule: tuple[tuple[Stage, float], ...]
    scales: Scales = "learned"

    @property
    def digest(self) -> str:
        """Identifies what the recipe does; its name and description do not count."""
        content = {key: value for key, value in asdict(self).items() if key in ("weights", "activations")}
        if self.scales != "learned":
            content["scales"] = self.scales
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The recipe as its YAML says it."""
        return {
            "name": self.name,
            "about": self.about,
            "schedule": dict(self.schedule),
            **({"scales": self.scales} if self.scales != "learned" else {}),
            **{
                kind: [
                    {"match": rule.match, "bits": "float" if rule.bits is None else rule.bits, "grid": rule.grid}
                    for rule in rules
                ]
                for kind, rules in (("weights", self.weights), ("activations", self.activations))
            },
        }


def resolve(
    rules: tuple[Rule, ...], names: list[str], must_stay_float: list[str], recipe: Recipe, kind: str
) -> dict[str, Rule]:
    """The rule that counts for each name. A rule that fits nothing is an error.

    The rule `*` passes over what must stay float; any other that counts there and gives bits is an error.
    """
    forbidden = [name for name in must_stay_float if name not in names]
    chosen: dict[str, Rule] = {}
    for rule in rules:
        fitting = [name for name in (*names, *forbidden) if fnmatchcase(name, rule.match)]
        if not fitting:
            raise _fits_nothing(rule, names, forbidden, recipe, kind)
        chosen |= dict.fromkeys(fitting, rule)
    for name in forbidden:
        last = chosen.pop(name, None)
        if last is not None and last.bits is not None and last.match != "*":
            wide = any(fnmatchcase(allowed, last.match) for allowed in names)
            later = f", or add a later one: {{match: '{name}', bits: float}}" if wide else ""
            raise _is_forbidden(last, name, recipe, kind, f"{'narrow' if wide else 'remove'} the rule{later}")
    return {name: rule for name, rule in chosen.items() if rule.bits is not None}


def _is_forbidden(rule: Rule, name: str, recipe: Recipe, kind: str, advice: str) -> QdbevError:
    return QdbevError(
        f"recipe '{recipe.name}' gives {rule.bits} bits to the {kind} of '{name}' by its rule '{rule.match}'",
        "that tensor in float: geometry, ego motion and final outputs are never quantised",
        advice,
    )


def _fits_nothing(rule: Rule, names: list[str], forbidden: list[str], recipe: Recipe, kind: str) -> QdbevError:
    """Most often it lacks the beginning of a name: the tensor that was meant is named, unless that is forbidden."""
    everything = [*names, *forbidden]
    meant = [name for name in everything if fnmatchcase(name, f"*{rule.match}")]
    meant = meant or [name for name in everything if fnmatchcase(name, f"*{rule.match}*")]
    if meant and meant[0] in forbidden and rule.bits is not None:
        return _is_forbidden(rule, meant[0], recipe, kind, "remove the rule")
    near = meant or difflib.get_close_matches(rule.match, names, n=1, cutoff=0.0)
    return QdbevError(
        f"recipe '{recipe.name}' has a rule '{rule.match}' that fits no {kind}",
        f"a pattern of names such as '{near[0]}'" if near else f"no rule: nothing here has {kind} to quantise",
        "correct the pattern" if near else "remove it",
    )


def _rules(value: Any, kind: str, source: str) -> tuple[Rule, ...]:
    def refuse(found: str, needed: str) -> QdbevError:
        return QdbevError(f"{source}: {kind} {found}", needed, "correct the recipe; docs/train.md describes it")

    if not isinstance(value, list) or not value:
        raise refuse("is not a list of rules", "a list of mappings with 'match' and 'bits'")
    rules = []
    for entry in value:
        if not isinstance(entry, dict) or not {"match", "bits"} <= set(entry) <= {"match", "bits", "grid"}:
            raise refuse(f"has the rule {entry!r}", "'match', 'bits' and, if need be, 'grid'")
        bits, grid = entry["bits"], entry.get("grid", "auto")
        if bits != "float" and (
            isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS
        ):
            raise refuse(f"has {bits!r} bits for '{entry['match']}'", f"{MIN_BITS} to {MAX_BITS}, or float")
        if grid not in ("auto", "signed"):
            raise refuse(f"has the grid {grid!r} for '{entry['match']}'", "auto or signed")
        rules.append(Rule(str(entry["match"]), None if bits == "float" else bits, grid))
    return tuple(rules)


def _schedule(value: Any, source: str) -> tuple[tuple[Stage, float], ...]:
    if (
        not isinstance(value, dict)
        or tuple(value) != STAGES
        or not all(isinstance(share, (int, float)) and share >= 0 for share in value.values())
        or not sum(value[part] for part in PARTS) > 0
    ):
        raise QdbevError(
            f"{source}: the schedule {value!r}",
            f"a share of the steps for each of {', '.join(STAGES)}, in this order",
            "correct the recipe; docs/train.md describes it",
        )
    return tuple((stage, float(value[stage])) for stage in STAGES)


def recipe_from_dict(value: Any, source: str) -> Recipe:
    """A recipe from its parsed YAML; `source` names it in errors."""
    expected = {"name", "about", "weights", "activations", "schedule"}
    if not isinstance(value, dict) or set(value) - {"scales"} != expected:
        found = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise QdbevError(
            f"{source} holds {found}", f"the fields {', '.join(sorted(expected))}", "compare it with calib/w4a6.yaml"
        )
    scales = value.get("scales", "learned")
    if scales not in ("learned", "observed"):
        raise QdbevError(
            f"{source} has the scales {scales!r}",
            "learned or observed",
            "correct the recipe; docs/train.md describes it",
        )
    return Recipe(
        str(value["name"]),
        str(value["about"]),
        _rules(value["weights"], "weights", source),
        _rules(value["activations"], "activations", source),
        _schedule(value["schedule"], source),
        scales,
    )


def _folder() -> Path:
    """Where the shipped recipes lie: inside an installed package, or in the checkout's calib/."""
    installed = Path(str(resources.files("qdbev_deploy"))) / "calib"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "calib"


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A shipped recipe by its name, or any recipe by its path."""
    import yaml

    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        raise QdbevError(
            f"there is no recipe '{name_or_path}'",
            "a YAML file, or one of " + ", ".join(shipped_recipes()),
            "pass --recipe with one of these",
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise QdbevError(
            f"{path} is not YAML ({str(error).splitlines()[0]})", "a recipe in YAML", "correct the file"
        ) from error
    return recipe_from_dict(content, str(path))
