"""What all recipes have in common, and what is wrong with one in a sentence."""

import difflib
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ressa.errors import brief
from ressa.recipe.fields import Seed


class BaseRecipe(BaseModel):
    """A field's help on the command line is the text beneath it, or comes with its type (`fields`)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    seed: Seed = 0
    """The seed of everything random."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0 and so on, or mps."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
            raise ValueError(
                f"there is no device {brief(value)}: choose auto, cpu, cuda, cuda:0 and so on, or mps"
            )
        return value

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON-able data: everything but where it runs, where its weights are meanwhile,
        and where it is written.

        A finished run with the same identity is not done again.
        """
        return self.model_dump(mode="json", exclude={"device", "stream", "output"})

    def besides(self) -> dict[str, Any]:
        """What else it was told that is not at its default, as JSON-able data: with `identity` and an output a recipe
        of the same run. Where weights are meanwhile (`stream`) is left out, as it moves no bit."""
        others = type(self).model_fields.keys() - self.identity().keys() - {"stream", "output"}
        told = self.model_dump(mode="json", include=others)
        return {
            name: told[name] for name in sorted(told) if told[name] != type(self).model_fields[name].default
        }


def sentence(command: str, kind: type[BaseModel], error: ValidationError) -> str:
    """The first thing that the validation of a `kind` found wrong, as one sentence."""
    problem = error.errors(include_url=False)[0]
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, kind.model_fields, 1)
        known = f"did you mean '{close[0]}'?" if close else f"its keys are {', '.join(kind.model_fields)}."
        return f"A {command} recipe has no key {brief(key)}: {known}"
    if problem["type"] == "missing":
        return f"The {command} recipe lacks '{key}': add it."
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "?")) else ".")
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"'{key}' of the {command} recipe cannot be {brief(problem['input'])}: {message}."
