"""What each pruning method can be told, and over what it compares weights: known without PyTorch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ressa.errors import UsageError, brief
from ressa.sparsity.pattern import Scope


class Options(BaseModel):
    """A method's own options. scope: over what its paper compares weights when sparsity is unstructured."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    scope: ClassVar[Scope] = "layer"


class RowWise(Options):
    """No options; weights are compared within each output row."""

    scope: ClassVar[Scope] = "row"


class SparseGptOptions(Options):
    """As in `methods/sparsegpt.py`."""

    percdamp: Annotated[float, Field(ge=0, le=10)] = 0.01
    blocksize: Annotated[int, Field(ge=1)] | None = None


class DsnotOptions(RowWise):
    """As in `methods/dsnot.py`."""

    start: Literal["wanda", "magnitude", "sparsegpt"] = "wanda"
    max_cycle_time: Annotated[int, Field(ge=0, le=10_000)] = 50
    update_threshold: Annotated[float, Field(ge=0)] = 0.1
    pow_of_var_regrowing: Annotated[float, Field(ge=-10, le=10)] = 1.0
    same_sign: bool = False
    skip: str | list[str] | tuple[str, ...] = ()


OPTIONS: dict[str, type[Options]] = {
    "random": Options,
    "magnitude": Options,
    "wanda": RowWise,
    "sparsegpt": SparseGptOptions,
    "dsnot": DsnotOptions,
}


def options_of(method: str) -> type[Options]:
    """The options of the method of this name. Raises UsageError with the known names."""
    if method not in OPTIONS:
        raise UsageError(f"There is no pruning method {brief(method)}; choose one of: {', '.join(OPTIONS)}.")
    return OPTIONS[method]


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that the method does not have, or a value that it cannot be."""
    known = options_of(method)
    try:
        known.model_validate(dict(options))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        if problem["type"] == "extra_forbidden":
            names = ", ".join(known.model_fields) or "none"
            raise UsageError(
                f"The method {method} has no option {brief(name)}; its options are: {names}."
            ) from None
        said = problem["msg"][:1].lower() + problem["msg"][1:]
        raise UsageError(
            f"The option '{name}' of the method {method} cannot be {brief(problem['input'])}: {said}."
        ) from None
