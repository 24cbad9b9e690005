"""Everything a run needs, as one validated object; a recipe file is the same object in YAML.

A file may hold several recipes, one YAML document each (separated by `---`): they run in that order.
Importing this module costs no PyTorch, so that `ressa --help` is instant.
"""

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ressa.errors import UsageError
from ressa.files import write_text

if TYPE_CHECKING:
    from ressa.repair.config import RepairConfig

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


Positive = Annotated[int, Field(gt=0)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Tasks = Annotated[tuple[str, ...], BeforeValidator(_task_names)]


class _Recipe(BaseModel):
    """The text beneath each field is its help on the command line."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    seed: Natural = 0
    """The seed of everything random."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0 and so on, or mps."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(
                f"there is no device '{value}': choose auto, cpu, cuda, cuda:0 and so on, or mps"
            )
        return value

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON-able data: everything but where it runs and where it is written.

        A finished run with the same identity is not done again.
        """
        return self.model_dump(mode="json", exclude={"device", "output"})


class PruneRecipe(_Recipe):
    """Make a model sparse. A pattern is N:M such as 2:4, or a share of zeros such as 0.5 or 50%."""

    command: Literal["prune"] = "prune"
    model: str
    """A folder, a Hugging Face hub id, `embedded` or `embedded-llava`."""
    output: Path
    """The folder to write."""
    method: str = "wanda"
    """How weights are scored."""
    pattern: str = "2:4"
    """N:M, or the share of zeros."""
    vision: str | None = None
    """The vision tower's own pattern, or `dense`."""
    connector: str | None = DENSE
    """The connector's own pattern, or `dense`."""
    language: str | None = None
    """The language tower's own pattern, or `dense`."""
    allocation: Literal["uniform", "ecoflap-first", "ecoflap-zeroth", "owl", "auto"] = "uniform"
    """How sparsity is spread over layers: uniform, ecoflap-first, ecoflap-zeroth, owl or auto."""
    budget: Literal["joint", "tower"] = "joint"
    """joint: the towers that are pruned share one budget; tower: each keeps its own."""
    choices: str | None = None
    """With auto: the patterns to choose from beside dense, such as 6:8,4:8,2:4."""
    plan: Path | None = None
    """A plan file, or a folder that ressa pruned, whose plan to carry out instead."""
    calibration: str = EMBEDDED
    """The dataset folder of the calibration samples, or `embedded`."""
    split: str = "calibration"
    """The split they are drawn from."""
    mixture: str = "mix"
    """What they are: captions, qa (questions), mix (half and half), or tasks such as caption,vqa."""
    samples: Positive = 128
    """How many they are."""
    batch_size: Positive = 16
    """How many run at a time."""
    dtype: Dtype = "auto"
    """auto (as saved), float32, bfloat16 or float16."""
    scope: Literal["layer", "global"] = "layer"
    """global: one threshold over the magnitudes of all layers."""
    tokens: Literal["all", "atv"] = "all"
    """atv: count of the image tokens only those that a block changes most."""
    alpha: PositiveFloat = 1.0
    """The α of atv: more image tokens the higher it is."""
    options: dict[str, Any] = Field(default_factory=dict)
    """An option of the method."""

    @field_validator("method")
    @classmethod
    def _check_method(cls, value: str) -> str:
        from ressa.methods import get_method

        return get_method(value).name

    @field_validator("pattern", "vision", "connector", "language", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any, info: ValidationInfo) -> Any:
        """0.5 and "50%" become the same text; a scope is written where it is not the method's own."""
        if value is None or value == DENSE or "method" not in info.data:
            return value
        from ressa.methods import get_method
        from ressa.sparsity.pattern import Unstructured, parse_pattern

        scope = get_method(info.data["method"]).scope
        pattern = parse_pattern(value, scope=scope)
        if isinstance(pattern, Unstructured) and pattern.scope != scope:
            return f"{pattern.sparsity}@{pattern.scope}"
        return str(pattern.sparsity) if isinstance(pattern, Unstructured) else str(pattern)

    @field_validator("options")
    @classmethod
    def _check_options(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        from ressa.methods import get_method

        if "method" in info.data:
            get_method(info.data["method"]).check_options(value)
        return value

    @field_validator("choices")
    @classmethod
    def _check_choices(cls, value: str | None, info: ValidationInfo) -> str | None:
        from ressa.sparsity.pattern import parse_pattern

        if value is None:
            return None
        if info.data.get("allocation") != "auto":
            raise ValueError("only the allocation auto chooses among patterns: leave the choices out")
        return ",".join(str(parse_pattern(part)) for part in value.split(","))

    @model_validator(mode="after")
    def _one_allocation(self) -> "PruneRecipe":
        if self.allocation != "uniform" and self.choices is None:
            exact = [text for text in self.towers().values() if ":" in text]
            if exact:
                raise ValueError(
                    f"the allocation {self.allocation} gives each layer its own share of zeros, and {exact[0]} is "
                    "a fixed pattern: give a share such as 0.5, or let auto choose among patterns (choices)"
                )
        if self.plan is not None and (self.allocation != "uniform" or self.scope == "global"):
            raise ValueError(
                "a plan says already what each layer gets: leave out the allocation and the scope"
            )
        return self

    @model_validator(mode="after")
    def _something_to_prune(self) -> "PruneRecipe":
        if set(self.towers().values()) == {DENSE}:
            raise ValueError("every tower is dense, so nothing would be pruned: give one a pattern")
        return self

    def towers(self) -> dict[str, str]:
        """Tower → pattern or `dense`."""
        own = {"vision": self.vision, "connector": self.connector, "language": self.language}
        return {tower: self.pattern if pattern is None else pattern for tower, pattern in own.items()}


class RepairRecipe(_Recipe):
    """Train SparseLoRA on a pruned model, the dense one as teacher, and merge it into the kept weights."""

    command: Literal["repair"] = "repair"
    model: str
    """A folder that `ressa prune` made."""
    dense: str | None = None
    """The model it was pruned from; by default the one that the folder names."""
    output: Path
    """The folder to write."""
    data: str = EMBEDDED
    """The dataset folder of the training samples, or `embedded`."""
    split: str = "train"
    """The split they are drawn from."""
    mixture: str = "mix"
    """What they are: captions, qa (questions), mix (half and half), or tasks such as caption,vqa."""
    samples: Positive = 25_000
    """How many they are."""
    epochs: PositiveFloat = 1.0
    """How often each is seen."""
    batch_size: Positive = 16
    """How many make a step."""
    learning_rate: PositiveFloat = 1e-4
    """AdamW's, at the start of its cosine."""
    rank_vision: Natural = 4
    """LoRA's rank in the vision tower; 0 leaves it as it is."""
    rank_connector: Natural = 2
    """LoRA's rank in the connector; 0 leaves it as it is."""
    rank_language: Natural = 8
    """LoRA's rank in the language tower; 0 leaves it as it is."""
    alpha: PositiveFloat = 16.0
    """LoRA's scale is alpha / rank."""
    kd_weight: Share = 0.1
    """The weight of the KL to the dense model; the rest is the task's."""
    temperature: PositiveFloat = 1.0
    """The KL's temperature."""
    dtype: Dtype = "auto"
    """auto (as saved), float32, bfloat16 or float16."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Any other option of ressa.repair.RepairConfig."""

    @model_validator(mode="after")
    def _check_options(self) -> "RepairRecipe":
        self.config()
        return self

    def config(self) -> "RepairConfig":
        """What the trainer is told. Raises UsageError for an option it does not have."""
        from ressa.repair.config import RepairConfig

        ranks = {tower: getattr(self, f"rank_{tower}") for tower in ("vision", "connector", "language")}
        values = {
            "ranks": ranks,
            "tune": tuple(tower for tower, rank in ranks.items() if rank),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "alpha": self.alpha,
            "kd_weight": self.kd_weight,
            "temperature": self.temperature,
            "seed": self.seed,
            "device": self.device,
        }
        twice = [name for name in self.options if name in values]
        if twice:
            raise UsageError(f"'{twice[0]}' is not one of the further options: it has a key of its own.")
        try:
            return RepairConfig.model_validate({**values, **self.options})
        except ValidationError as error:
            raise UsageError(_sentence("repair", RepairConfig, error)) from None


class EvaluateRecipe(_Recipe):
    """Score a model on the tasks of a dataset folder."""

    command: Literal["evaluate"] = "evaluate"
    model: str
    """A folder, a Hugging Face hub id, `embedded` or `embedded-llava`."""
    output: Path | None = None
    """The JSON file to write the scores to."""
    tasks: Tasks = TASKS
    """Which, separated by commas."""
    data: str = EMBEDDED
    """The dataset folder (docs/evaluate.md shows its layout), or `embedded`."""
    split: str = "test"
    """The split to score on."""
    limit: Positive | None = None
    """How many images each task looks at; all of them by default."""
    pool: Positive = 200
    """How many images retrieval chooses among."""
    batch_size: Positive = 32
    """How many run at a time."""
    beams: Positive = 1
    """Beams of the generation."""
    dtype: Dtype = "auto"
    """auto (as saved), float32, bfloat16 or float16."""


class SweepRecipe(_Recipe):
    """Prune a model many times, score each time, and draw where sparsity should go."""

    command: Literal["sweep"] = "sweep"
    model: str
    """A folder, a Hugging Face hub id, `embedded` or `embedded-llava`."""
    output: Path
    """The folder to write: finished points, CSV and PNG."""
    figure: Literal["allocation", "modality"] = "allocation"
    """allocation: vision to language at a constant sum; modality: which tower is pruned."""
    method: str = "wanda"
    """How weights are scored."""
    seeds: Seeds = (0,)
    """Of the calibration samples, separated by commas; every point is run with each."""
    tasks: Tasks = ("vqa", "okvqa", "gqa", "caption")
    """Which, separated by commas."""
    data: str = EMBEDDED
    """The dataset folder to score on, or `embedded`."""
    split: str = "test"
    """The split to score on."""
    limit: Positive | None = 100
    """How many images each task looks at."""
    pool: Positive = 50
    """How many images retrieval chooses among."""
    calibration: str = EMBEDDED
    """The dataset folder of the calibration samples, or `embedded`."""
    calibration_split: str = "calibration"
    """The split they are drawn from."""
    mixture: str = "mix"
    """What they are: captions, qa (questions), mix (half and half), or tasks such as caption,vqa."""
    samples: Positive = 64
    """How many they are."""
    batch_size: Positive = 32
    """How many run at a time."""
    dtype: Dtype = "auto"
    """auto (as saved), float32, bfloat16 or float16."""
    options: dict[str, Any] = Field(default_factory=dict)
    """An option of the method."""

    @field_validator("method")
    @classmethod
    def _check_method(cls, value: str) -> str:
        from ressa.methods import get_method

        return get_method(value).name

    @field_validator("options")
    @classmethod
    def _check_options(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        from ressa.methods import get_method

        if "method" in info.data:
            get_method(info.data["method"]).check_options(value)
        return value

    def identity(self) -> dict[str, Any]:
        """What decides the score of a point, whichever figure and seeds it is asked for."""
        own = {"seeds", "figure", "seed", "method", "options"}
        return {key: value for key, value in super().identity().items() if key not in own}


class DemoRecipe(_Recipe):
    """The whole story on an embedded model: the sizes that keep it under eight minutes on two cores."""

    command: Literal["demo"] = "demo"
    model: str = "embedded-llava"
    """An embedded model, or any other with a dataset folder of its own."""
    output: Path = Path("runs/demo")
    """The folder to write."""
    data: str = EMBEDDED
    """The dataset folder, or `embedded`."""
    method: str = "wanda"
    """How weights are scored."""
    pattern: str = "2:4"
    """N:M, or the share of zeros, in vision and language."""
    samples: Positive = 128
    """Calibration samples."""
    evaluation_images: Positive = 200
    """How many images each task looks at."""
    evaluation_pool: Positive = 40
    """How many images retrieval chooses among."""
    evaluation_batch: Positive = 64
    """How many samples run at a time."""
    repair_samples: Positive = 6_400
    """Training samples of the repair."""
    repair_batch: Positive = 32
    """How many make a step."""
    repair_rate: PositiveFloat = 1e-3
    """The learning rate at the start of its cosine."""
    rank_vision: Natural = 8
    """LoRA's rank in the vision tower."""
    rank_connector: Natural = 2
    """LoRA's rank in the connector."""
    rank_language: Natural = 16
    """LoRA's rank in the language tower."""
    kd_weight: Share = 0.1
    """The weight of the KL to the dense model."""

    @property
    def prune(self) -> PruneRecipe:
        """Vision and language pruned alike, the connector dense."""
        return PruneRecipe(
            model=self.model,
            output=self.output / "pruned",
            method=self.method,
            pattern=self.pattern,
            calibration=self.data,
            samples=self.samples,
            seed=self.seed,
            device=self.device,
        )

    @property
    def repair(self) -> RepairRecipe:
        """SparseLoRA on the pruned folder, taught by the dense one."""
        return RepairRecipe(
            model=str(self.output / "pruned"),
            dense=self.model,
            output=self.output / "repaired",
            data=self.data,
            samples=self.repair_samples,
            batch_size=self.repair_batch,
            learning_rate=self.repair_rate,
            rank_vision=self.rank_vision,
            rank_connector=self.rank_connector,
            rank_language=self.rank_language,
            kd_weight=self.kd_weight,
            seed=self.seed,
            device=self.device,
        )

    def evaluate(self, stage: str) -> EvaluateRecipe:
        """The same questions for every stage: `dense`, `pruned` or `repaired`."""
        return EvaluateRecipe(
            model=str(self.output / stage),
            output=self.output / "scores" / f"{stage}.json",
            data=self.data,
            limit=self.evaluation_images,
            pool=self.evaluation_pool,
            batch_size=self.evaluation_batch,
            seed=self.seed,
            device=self.device,
        )


class _Loader(yaml.SafeLoader):
    """YAML in which 2:4 is the text "2:4", not the base-60 number 124 that YAML 1.1 makes of it."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9]\d*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)

Recipe = PruneRecipe | RepairRecipe | EvaluateRecipe | SweepRecipe | DemoRecipe
RECIPES: dict[str, type[Recipe]] = {
    kind.model_fields["command"].default: kind
    for kind in (PruneRecipe, RepairRecipe, EvaluateRecipe, SweepRecipe, DemoRecipe)
}


def make_recipe(values: dict[str, Any]) -> Recipe:
    """A recipe from plain values, `command` saying which. Raises UsageError for the first thing wrong."""
    if not isinstance(values, dict):
        raise UsageError("A recipe is a list of 'key: value' lines, the first being 'command: prune', say.")
    command = values.get("command")
    if command not in RECIPES:
        wrong = f"'{command}' is not a command" if command else "The recipe names no command"
        raise UsageError(f"{wrong}: write 'command:' and one of {', '.join(RECIPES)}.")
    kind = RECIPES[command]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(_sentence(command, kind, error)) from None


def to_yaml(recipe: Recipe) -> str:
    """A recipe as YAML, every option written out, the command first."""
    values = {"command": recipe.command, **recipe.model_dump(mode="json")}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def write_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write a recipe file."""
    write_text(path, to_yaml(recipe))


def from_yaml(text: str) -> list[Recipe]:
    """The recipes in a YAML text, one a document. Raises UsageError when it is not YAML or one is wrong."""
    try:
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"The recipe is not YAML: {' '.join(str(error).split())}.") from None
    if not documents:
        raise UsageError("The recipe is empty: write 'command: prune', 'model: …' and 'output: …', say.")
    return [make_recipe(document) for document in documents]


def read_recipes(path: str | Path) -> list[Recipe]:
    """The recipes in a file; relative paths in it are relative to the folder the command runs in."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no recipe file {path}: check the path.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe file {path} is not readable text: {error}.") from None
    return from_yaml(text)


def _sentence(command: str, kind: type[BaseModel], error: ValidationError) -> str:
    """The first thing a validation found wrong, as one sentence."""
    problem = error.errors(include_url=False)[0]
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, kind.model_fields, 1)
        known = f"did you mean '{close[0]}'?" if close else f"its keys are {', '.join(kind.model_fields)}."
        return f"A {command} recipe has no key '{key}': {known}"
    if problem["type"] == "missing":
        return f"The {command} recipe lacks '{key}': add it."
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "?")) else ".")
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"'{key}' of the {command} recipe cannot be {problem['input']!r}: {message}."
