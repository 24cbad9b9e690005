"""The types of recipes' fields: what values each takes and, where several recipes have it, its help."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from ressa.methods.options import check_options, options_of
from ressa.sparsity.pattern import Unstructured, parse_pattern

TASKS = ("vqa", "okvqa", "gqa", "caption", "retrieval")
DENSE = "dense"
EMBEDDED = "embedded"


def _task_names(value: Any) -> Any:
    """Accepts "vqa,gqa" or a list; repeats are dropped."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        return names
    names = tuple(dict.fromkeys(str(name).strip() for name in names))
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        what = f"there is no task '{unknown[0]}'" if unknown else "no task is named"
        raise ValueError(f"{what}: choose from {', '.join(TASKS)}")
    return names


def _numbers(value: Any) -> Any:
    """Accepts "0,1,2", one number or a list; repeats are dropped."""
    parts = (
        value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    )
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in parts))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise ValueError(f"seeds are whole numbers from 0 up, separated by commas, not {value!r}")
    return numbers


def _known_method(value: str) -> str:
    options_of(value)
    return value


def _known_options(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    if "method" in info.data:
        check_options(info.data["method"], value)
    return value


def one_spelling(value: Any, info: ValidationInfo) -> Any:
    """0.5 and "50%" become the same text; a scope is written where it is not the method's own."""
    if "method" not in info.data:
        return value
    scope = options_of(info.data["method"]).scope
    pattern = parse_pattern(value, scope=scope)
    if isinstance(pattern, Unstructured) and pattern.scope != scope:
        return f"{pattern.sparsity}@{pattern.scope}"
    return str(pattern.sparsity) if isinstance(pattern, Unstructured) else str(pattern)


def _one_spelling_or_dense(value: Any, info: ValidationInfo) -> Any:
    return value if value == DENSE else one_spelling(value, info)


Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

Model = Annotated[str, Field(description="A folder, a Hugging Face hub id, `embedded` or `embedded-llava`.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(
        description="float32, bfloat16, float16, or auto: as saved, and computed in float32 where that is slow."
    ),
]
BatchSize = Annotated[int, Field(gt=0, description="How many run at a time.")]

Method = Annotated[str, AfterValidator(_known_method), Field(description="How weights are scored.")]
# These read the recipe's `method`, a field that stands before them; where it is wrong, it alone is named.
MethodOptions = Annotated[
    dict[str, Any], AfterValidator(_known_options), Field(description="An option of the method.")
]
Pattern = Annotated[str, BeforeValidator(one_spelling)]
PatternOrDense = Annotated[str, BeforeValidator(_one_spelling_or_dense)]

# Samples to calibrate or train on.
Calibration = Annotated[
    str, Field(description="The dataset folder of the calibration samples, or `embedded`.")
]
SamplesSplit = Annotated[str, Field(description="The split they are drawn from.")]
Mixture = Annotated[
    str,
    Field(
        description="What they are: captions, qa (questions), mix (half and half), or tasks such as caption,vqa."
    ),
]
Samples = Annotated[int, Field(gt=0, description="How many they are.")]

# What to score.
Tasks = Annotated[
    tuple[str, ...], BeforeValidator(_task_names), Field(description="Which, separated by commas.")
]
TestSplit = Annotated[str, Field(description="The split to score on.")]
Pool = Annotated[int, Field(gt=0, description="How many images retrieval chooses among.")]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
