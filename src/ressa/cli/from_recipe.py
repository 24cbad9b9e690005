"""Commands whose options are the fields of a recipe."""

import functools
import inspect as reflection
import json
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ressa.cli.app import command
from ressa.cli.options import DryRun, Force, JsonTarget
from ressa.cli.showing import prepare, show
from ressa.errors import UsageError
from ressa.recipe import Recipe, make_recipe

Values = dict[str, Any]


def recipe_command(
    recipe: type[Recipe], *, writes_folder: bool = True, **extra: Any
) -> Callable[[Callable[[Values], Values]], None]:
    """Register a function as the command of a recipe, whose fields become its options.

    The function turns the options that are given into the recipe's values; its docstring is the command's help.
    writes_folder: whether there is an output that `--force` may replace. extra: options that are no fields,
    name → annotation; they default to None.
    """
    hidden = {"command"} if writes_folder else {"command", "output"}
    common = ("on_bad_sample", "max_pixels", "follow_links", "seed", "device")  # these stand last in the help
    own = recipe.__annotations__
    names = sorted(recipe.model_fields, key=lambda name: (name in common, name not in own))
    fields = {name: recipe.model_fields[name] for name in names if name not in hidden}

    def register(adapt: Callable[[Values], Values]) -> None:
        def run(
            context: typer.Context,
            force: bool = False,
            dry_run: bool = False,
            json_target: str | None = None,
            **values: Any,
        ) -> None:
            values = {name: value for name, value in values.items() if _is_given(context, name)}
            if not writes_folder and json_target not in (None, "-"):
                values["output"] = json_target  # known beforehand, as an output must be
            recipes = [make_recipe({"command": adapt.__name__, **adapt(values)})]
            estimate_recipes(recipes, json_target) if dry_run else run_recipes(recipes, force, json_target)

        option = functools.partial(reflection.Parameter, kind=reflection.Parameter.KEYWORD_ONLY)
        parameters = [
            option("context", annotation=typer.Context),
            *(option(name, annotation=_annotation(name, field)) for name, field in fields.items()),
            *(option(name, annotation=annotation) for name, annotation in extra.items()),
            option("dry_run", annotation=DryRun),
            *([option("force", annotation=Force)] if writes_folder else []),
            option("json_target", annotation=JsonTarget),
        ]
        defaults = {name: _default(field) for name, field in fields.items()} | {
            "force": False,
            "dry_run": False,
        }
        parameters = [
            each if each.name == "context" else each.replace(default=defaults.get(each.name))
            for each in parameters
        ]
        run.__doc__ = adapt.__doc__
        run.__signature__ = reflection.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__name__ = adapt.__name__
        command(run)

    return register


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line: what does not is the recipe's default, or its preset's."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _annotation(name: str, field: Any) -> Any:
    """How a recipe's field is given on the command line; the recipe itself checks the value."""
    if name == "model" and field.is_required():
        return Annotated[str, typer.Argument(help=field.description)]
    if name == "models":
        return Annotated[list[str], typer.Argument(help=field.description)]
    plain = _plain(field.annotation)
    if plain is dict:
        help_text = f"{field.description.rstrip('.')}, as in --option name=value; repeatable."
        return Annotated[list[str] | None, typer.Option("--option", help=help_text)]
    word = name.replace("_", "-")
    flags = [f"--{word}/--no-{word}" if plain is bool else f"--{word}", *(["-o"] if name == "output" else [])]
    kind = plain if field.is_required() else plain | None
    return Annotated[kind, typer.Option(*flags, help=field.description)]


def _plain(annotation: Any) -> Any:
    """bool, int, float, Path or dict as they are; all else is text."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    annotation = typing.get_origin(annotation) or annotation
    return annotation if annotation in (bool, int, float, Path, dict) else str


def _default(field: Any) -> Any:
    if field.is_required():
        return reflection.Parameter.empty
    value = None if field.default_factory is not None else field.default
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def with_options(values: Values) -> Values:
    """Turn --option name=value into a mapping; a value is JSON where it can be read as JSON, else text."""
    options = {}
    if "options" not in values:
        return values
    for text in values["options"]:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {text} is not of the form name=value: write it so.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
        except RecursionError:
            raise UsageError(f"The value of --option {name} lies too deep: give a plain one.") from None
    return {**values, "options": options}


def estimate_recipes(recipes: Sequence[Recipe], json_target: str | None) -> None:
    prepare(json_target)
    from ressa.commands.estimate import estimate

    show(estimate(recipes), json_target)


def run_recipes(recipes: Sequence[Recipe], force: bool, json_target: str | None) -> None:
    prepare(json_target)
    from ressa.run import run_recipe

    show([run_recipe(recipe, force=force) for recipe in recipes], json_target)
