"""The types of recipes' fields: what values each takes and, where several recipes have it, its help."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from ressa.errors import brief
from ressa.methods.options import check_options, options_of
from ressa.sparsity.pattern import Unstructured, parse_pattern
from ressa.task_names import CAPTION_METRICS, EVERY_TASK

DENSE = "dense"


def _names(known: tuple[str, ...], what: str) -> Callable[[Any], Any]:
    """A validator that accepts "vqa,gqa" or a list of known names; repeats are dropped."""

    def checked(value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return names
        names = tuple(dict.fromkeys(str(name).strip() for name in names))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = f"there is no {what} {brief(unknown[0])}" if unknown else f"no {what} is named"
            raise ValueError(f"{wrong}: choose from {', '.join(known)}")
        return names

    return checked


def _model_names(value: Any) -> Any:
    """Accepts one name or a list; repeats are dropped."""
    names = [value] if isinstance(value, str | Path) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str | Path) for name in names):
        return names
    if not names:
        raise ValueError("no model is named: give a folder that ressa made, or several")
    paths = [path_text(name) for name in names]
    return tuple(dict.fromkeys(paths)) if all(isinstance(path, str) for path in paths) else paths


def _separated(value: Any) -> Any:
    """Accepts "mme,pope" or a list of any names; repeats are dropped."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        return names
    return tuple(dict.fromkeys(name for each in names if (name := str(each).strip())))


def _numbers(value: Any) -> Any:
    """Accepts "0,1,2", one number or a list; repeats are dropped."""
    parts = (
        value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    )
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in parts))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(0 <= number < SEEDS for number in numbers) or len(numbers) > 1000:
        raise ValueError(
            f"seeds are whole numbers from 0 to {SEEDS - 1}, separated by commas, not {brief(value)}"
        )
    return numbers


def folder_to_write(value: Any) -> Any:
    """A path that a folder can be made at: not empty, not the folder one is in or one above it."""
    if isinstance(value, str | Path):
        text = path_text(value)
        if Path(text).name in ("", ".."):
            raise ValueError(f"'{text}' is no name for a new folder: give one such as runs/pruned")
        return Path(text)
    return value


def file_to_write(value: Any) -> Any:
    """A path that a file can be made at."""
    if isinstance(value, str | Path):
        text = path_text(value)
        if Path(text).name in ("", ".."):
            raise ValueError(f"'{text}' is no name for a file: give one such as runs/scores.json")
        return Path(text)
    return value


def path_text(value: Any) -> Any:
    """A path as a person writes it: `~` is their home."""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text.strip():
        raise ValueError("a path cannot be empty: name a file or folder")
    if any(unicodedata.category(each) in ("Cc", "Cs") for each in text):
        raise ValueError(f"{brief(text)} is no path: it holds control characters")
    if len(text.encode()) > 4000 or any(len(part.encode()) > 255 for part in Path(text).parts):
        raise ValueError(f"{brief(text)} is no path: it is longer than a file system can hold")
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # no such user's home
        return text


def split_name(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
            raise ValueError(
                f"{brief(name)} is no name of a split: it is a part of file names, such as val or test"
            )
    return ",".join(names)


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


# Far above anything of use, and far below what a machine's integers hold.
MOST = 10**9
SEEDS = 2**32

Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Positive = Annotated[int, Field(gt=0, le=MOST)]
Natural = Annotated[int, Field(ge=0, le=MOST)]
PositiveFloat = Annotated[float, Field(gt=0, le=MOST)]
Epochs = Annotated[float, Field(gt=0, le=10_000)]
Share = Annotated[float, Field(ge=0, le=1)]

Names = Annotated[tuple[str, ...], BeforeValidator(_separated)]

OutputFolder = Annotated[Path, BeforeValidator(folder_to_write)]
OutputFile = Annotated[Path, BeforeValidator(file_to_write)]
InputPath = Annotated[Path, BeforeValidator(path_text)]
Folder = Annotated[str, BeforeValidator(path_text)]
ModelName = Annotated[str, BeforeValidator(path_text)]
Model = Annotated[
    ModelName, Field(description="A folder, a Hugging Face hub id, `embedded` or `embedded-llava`.")
]
Models = Annotated[
    tuple[str, ...],
    BeforeValidator(_model_names),
    Field(
        description="Folders that ressa made, or models; what they were made from is shown, too, where it is there."
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(
        description="float32, bfloat16, float16, or auto: as saved, and computed in float32 where that is slow."
    ),
]
Packed = Annotated[
    bool,
    Field(description="Store pruned weights packed, as small as they are (`ressa pack`, docs/format.md)."),
]
BatchSize = Annotated[Positive, Field(description="How many run at a time.")]

Method = Annotated[
    str,
    AfterValidator(_known_method),
    Field(description="How weights are scored: random, magnitude, wanda, sparsegpt or dsnot."),
]
# These read the recipe's `method`, a field that stands before them; where it is wrong, it alone is named.
MethodOptions = Annotated[
    dict[str, Any], AfterValidator(_known_options), Field(description="An option of the method.")
]
Pattern = Annotated[str, BeforeValidator(one_spelling)]
PatternOrDense = Annotated[str, BeforeValidator(_one_spelling_or_dense)]

# Samples to calibrate or train on.
CalibrationSplit = Annotated[
    str,
    AfterValidator(split_name),
    Field(description="The split they are drawn from; auto: calibration, or else train."),
]
SamplesSplit = Annotated[
    str, AfterValidator(split_name), Field(description="The split they are drawn from; auto: train.")
]
Mixture = Annotated[
    str,
    Field(
        description="What they are: captions, qa (questions), mix (half and half), instruct (conversations), "
        "prefix-captions (captions to be continued), or tasks, weighted where you like: caption:2,vqa."
    ),
]
Samples = Annotated[Positive, Field(description="How many they are.")]

# What to score.
Tasks = Annotated[
    tuple[str, ...],
    BeforeValidator(_names(EVERY_TASK, "task")),
    Field(description=f"Which, separated by commas: {', '.join(EVERY_TASK)}."),
]
CaptionMetrics = Annotated[tuple[str, ...], BeforeValidator(_names(CAPTION_METRICS, "caption metric"))]
TestSplit = Annotated[
    str,
    AfterValidator(split_name),
    Field(
        description="The split to score on; auto: each task's test, testdev or val, the first that there is."
    ),
]
Pool = Annotated[
    Natural,
    Field(description="How many images retrieval chooses among; 0: all of the split."),
]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
