"""The command line: parse, call one function of the library, print. Nothing else happens here.

A command's options are the fields of its recipe. PyTorch and transformers are imported only once a command
runs, so that help and most usage errors are instant.
"""

import functools
import inspect as reflection
import json
import os
import signal
import sys
import threading
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ressa import __version__
from ressa.errors import RunError, UsageError, brief
from ressa.processes import is_first
from ressa.recipe import (
    DemoRecipe,
    EvaluateRecipe,
    PruneRecipe,
    Recipe,
    RepairRecipe,
    SweepRecipe,
    make_recipe,
    read_recipes,
)
from ressa.recipe.fields import file_to_write, folder_to_write
from ressa.warned import RessaWarning

if TYPE_CHECKING:
    from ressa.commands.outcome import Outcome

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

LONGEST = 1000  # characters of a sentence; of a longer one, whatever it quotes, the ends are shown

Values = dict[str, Any]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at the output.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and what it would take; load nothing.")
]
JsonTarget = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FILE]",
        help="The result as JSON: on standard output, or in FILE (a name that ends in .json).",
    ),
]


class Interrupted(Exception):
    """Ctrl-C or a termination signal, as an exception that the parser's own handling leaves alone."""


def interruptible(function: Callable[..., None]) -> Callable[..., None]:
    """Let an interruption reach `main` as `Interrupted`."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted from None

    return guarded


def recipe_command(
    recipe: type[Recipe], *, writes_folder: bool = True, can_estimate: bool = False, **extra: Any
) -> Callable[[Callable[[Values], Values]], None]:
    """Register a function as the command of a recipe, whose fields become its options.

    The function turns the options as given into the recipe's values; its docstring is the command's help.
    writes_folder: whether there is an output that `--force` may replace. can_estimate: whether there is
    `--dry-run`. extra: options that are no fields, name → annotation; they default to None.
    """
    hidden = {"command"} if writes_folder else {"command", "output"}
    common = ("on_bad_sample", "max_pixels", "follow_links", "seed", "device")  # these stand last in the help
    names = sorted(recipe.model_fields, key=lambda name: name in common)
    fields = {name: recipe.model_fields[name] for name in names if name not in hidden}

    def register(adapt: Callable[[Values], Values]) -> None:
        @interruptible
        def run(
            force: bool = False, dry_run: bool = False, json_target: str | None = None, **values: Any
        ) -> None:
            if not writes_folder and json_target not in (
                None,
                "-",
            ):  # it is the output, and is known beforehand
                values["output"] = json_target
            recipes = [make_recipe({"command": adapt.__name__, **adapt(values)})]
            _estimate(recipes, json_target) if dry_run else _run(recipes, force, json_target)

        option = functools.partial(reflection.Parameter, kind=reflection.Parameter.KEYWORD_ONLY)
        parameters = [
            *(option(name, annotation=_annotation(name, field)) for name, field in fields.items()),
            *(option(name, annotation=annotation) for name, annotation in extra.items()),
            *([option("dry_run", annotation=DryRun)] if can_estimate else []),
            *([option("force", annotation=Force)] if writes_folder else []),
            option("json_target", annotation=JsonTarget),
        ]
        defaults = {name: _default(field) for name, field in fields.items()} | {
            "force": False,
            "dry_run": False,
        }
        parameters = [each.replace(default=defaults.get(each.name)) for each in parameters]
        run.__doc__ = adapt.__doc__
        run.__signature__ = reflection.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(adapt.__name__)(run)

    return register


def _annotation(name: str, field: Any) -> Any:
    """How a recipe's field is given on the command line; the recipe itself checks the value."""
    if name == "model" and field.is_required():
        return Annotated[str, typer.Argument(help=field.description)]
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


@recipe_command(DemoRecipe)
def demo(values: Values) -> Values:
    """Prune, repair and evaluate an embedded model.

    It is pruned to 2:4 and repaired; the table shows what broke and what came back. A run
    that was interrupted goes on from its last finished stage.

    \b
    Example:
      ressa demo
      ressa demo --output runs/4-8 --pattern 4:8
    """
    return values


@recipe_command(
    PruneRecipe,
    can_estimate=True,
    sparsity=Annotated[str | None, typer.Option(help="The share of zeros: 0.5 or 50%.")],
)
def prune(values: Values) -> Values:
    """Make a model sparse.

    The result is a plain Hugging Face folder with exact zeros, and a file that says how it was made.

    \b
    Example:
      ressa prune embedded -o runs/pruned --pattern 2:4
      ressa prune ./llava -o runs/llava --sparsity 0.5 --vision dense --calibration ./coco
    """
    sparsity = values.pop("sparsity")
    if sparsity is not None:
        if values["pattern"] != PruneRecipe.model_fields["pattern"].default:
            raise UsageError("--pattern and --sparsity say the same thing: give one of them.")
        values["pattern"] = sparsity
    return _with_options(values)


@recipe_command(RepairRecipe, can_estimate=True)
def repair(values: Values) -> Values:
    """Repair a pruned model.

    The dense model teaches: each block learns its outputs, then SparseLoRA is trained and merged into the
    weights. Kept weights change, no zero moves.

    \b
    Example:
      ressa repair runs/pruned -o runs/repaired
      ressa repair runs/llava --dense ./llava -o runs/llava-repaired --data ./coco --samples 25000
    """
    return _with_options(values)


@recipe_command(EvaluateRecipe, writes_folder=False)
def evaluate(values: Values) -> Values:
    """Score a model on images and text.

    Questions, captions and retrieval, by the official protocols.

    \b
    Example:
      ressa evaluate embedded --limit 200
      ressa evaluate runs/repaired --tasks vqa,caption --data ./coco --json scores.json
    """
    return values


@recipe_command(SweepRecipe)
def sweep(values: Values) -> Values:
    """Prune many ways, score each, and draw where sparsity should go.

    Points that are finished are kept, so that an interrupted sweep goes on; the folder gets a CSV and a PNG,
    the paper's curves beside the model's own.

    \b
    Example:
      ressa sweep embedded -o runs/sweep --figure modality --seeds 0,1,2 --limit 100
      ressa sweep ./llava -o runs/sweep --figure allocation --method sparsegpt --data ./coco --calibration ./coco
    """
    return _with_options(values)


def _path(check: Callable[[Any], Any]) -> Callable[[Path | None], Path | None]:
    """An option's callback that checks a path as a recipe's field of that kind does."""

    def checked(value: Path | None) -> Path | None:
        try:
            return None if value is None else Path(check(value))
        except ValueError as error:
            raise UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None

    return checked


Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder to write.", callback=_path(folder_to_write))
]
Figure = Annotated[
    Path | None,
    typer.Option(
        "--figure", help="Draw how sparse each block is, to this PNG file.", callback=_path(file_to_write)
    ),
]


@app.command()
@interruptible
def inspect(
    model: Annotated[str, typer.Argument(help="A folder that ressa made, or any model.")],
    layers: Annotated[bool, typer.Option("--layers", help="Every layer, not only the towers.")] = False,
    figure: Figure = None,
    json_target: JsonTarget = None,
) -> None:
    """Count a model's zeros.

    They are counted in the weights themselves and checked against the pattern that was asked for.

    \b
    Example:
      ressa inspect runs/pruned --layers
    """
    _prepare(json_target)
    from ressa.commands.inspect import inspect_model

    _show([inspect_model(model, layers=layers, figure=figure)], json_target)


@app.command()
@interruptible
def pack(
    model: Annotated[str, typer.Argument(help="A folder that ressa pruned or repaired.")],
    output: Output,
    force: Force = False,
    json_target: JsonTarget = None,
) -> None:
    """Store a sparse model as small as it is.

    Every pruned weight is stored as its kept values and one bit a weight. The folder loads by from_pretrained
    once ressa is imported, and `ressa unpack` gives every bit back.

    \b
    Example:
      ressa pack runs/repaired -o runs/packed
    """
    _prepare(json_target)
    from ressa.commands.pack import pack_model

    _show([pack_model(model, output, force=force)], json_target)


@app.command()
@interruptible
def unpack(
    model: Annotated[str, typer.Argument(help="A folder that ressa packed.")],
    output: Output,
    force: Force = False,
    json_target: JsonTarget = None,
) -> None:
    """Undo `ressa pack`, bit for bit.

    \b
    Example:
      ressa unpack runs/packed -o runs/plain
    """
    _prepare(json_target)
    from ressa.commands.pack import unpack_model

    _show([unpack_model(model, output, force=force)], json_target)


@app.command()
@interruptible
def bench(
    model: Annotated[str, typer.Argument(help="A folder that ressa pruned, repaired or packed.")],
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", help="How many images at a time, separated by commas.")
    ] = "1",
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", help="How many tokens are written.", min=2, max=100_000)
    ] = 32,
    rounds: Annotated[
        int, typer.Option("--rounds", help="Generations that count; medians are shown.", min=1, max=10_000)
    ] = 3,
    static: Annotated[
        bool,
        typer.Option(
            "--static/--no-static",
            help="A static cache: on a GPU the decoding step is then compiled, which takes minutes at first.",
        ),
    ] = False,
    mode: Annotated[
        Literal["auto", "packed", "dense"],
        typer.Option("--mode", help="How packed layers compute where there is no kernel (docs/runtime.md)."),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option("--dtype", help="As for evaluate.")
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0 and so on.")] = "auto",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune/--no-tune",
            help="First find the fastest variants of the kernels for these layers on this GPU.",
        ),
    ] = False,
    json_target: JsonTarget = None,
) -> None:
    """Time a sparse model, dense and packed.

    The same model generates from the same images and prompt, with its pruned layers plain and then packed:
    time to the first token, tokens a second, memory.

    \b
    Example:
      ressa bench runs/repaired --batch-sizes 1,8 --static
    """
    _prepare(json_target)
    from ressa.commands.bench import bench_model

    try:
        sizes = [int(size) for size in batch_sizes.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(1 <= size <= 10_000 for size in sizes):
        raise UsageError(
            f"--batch-sizes {brief(batch_sizes)}: write numbers from 1 to 10,000, separated by commas, as in 1,8."
        )
    outcome = bench_model(
        model,
        batch_sizes=sizes,
        new_tokens=new_tokens,
        rounds=rounds,
        mode=mode,
        static=static,
        dtype=dtype,
        device=device,
        tune=tune,
    )
    _show([outcome], json_target)


@app.command()
@interruptible
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file (docs/recipe.md shows one).")],
    force: Force = False,
    json_target: JsonTarget = None,
) -> None:
    """Run the recipes in a file, in order.

    \b
    Example:
      ressa run prune-and-repair.yaml
    """
    _run(read_recipes(recipe), force, json_target)


def _version(asked: bool) -> None:
    if asked:
        print(f"ressa {__version__}")
        raise typer.Exit


@app.callback()
def ressa(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make a vision-language model sparse, repair it, and prove both."""


def _with_options(values: Values) -> Values:
    """Turn --option name=value into a mapping; a value is JSON where it can be read as JSON, else text."""
    options = {}
    for text in values["options"] or ():
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


def _estimate(recipes: Sequence[Recipe], json_target: str | None) -> None:
    _prepare(json_target)
    from ressa.commands.estimate import estimate

    _show([estimate(recipe) for recipe in recipes], json_target)


def _run(recipes: Sequence[Recipe], force: bool, json_target: str | None) -> None:
    _prepare(json_target)
    from ressa.run import run_recipe

    _show([run_recipe(recipe, force=force) for recipe in recipes], json_target)


def _prepare(json_target: str | None) -> None:
    """What comes before every command that does something."""
    _quiet()
    _try_target(json_target)


def _try_target(json_target: str | None) -> None:
    """Raises UsageError before the work if its result could not be written where `--json` says."""
    if json_target is None or json_target == "-":
        return
    from ressa.files import check_writable

    if Path(json_target).is_dir():
        raise UsageError(f"{json_target} is a folder: give --json the name of a file that ends in .json.")
    check_writable(json_target)


def _show(outcomes: Sequence["Outcome"], json_target: str | None) -> None:
    """Print tables for people or JSON for machines; a list only when a recipe file held several recipes.

    Raises RunError, everything having been shown, where an outcome is that something is wrong.
    """
    if not is_first():
        return
    data = [outcome.data for outcome in outcomes] if len(outcomes) > 1 else outcomes[0].data
    if json_target == "-":
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        _print(outcomes)
    if json_target not in (None, "-"):
        from ressa.files import write_json

        write_json(str(json_target), data)
    for outcome in outcomes:
        if outcome.wrong:
            raise RunError(outcome.wrong)


def _print(outcomes: Sequence["Outcome"]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for outcome in outcomes:
        for table in outcome.tables:
            console.print(table.rich())
        for line in outcome.lines:
            console.print(line, markup=False, soft_wrap=True)


def _quiet() -> None:
    """Silence what the libraries say about themselves; ressa's own progress, warnings and errors stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Read when the libraries are imported: they need not be imported to be told.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    warnings.simplefilter("always", RessaWarning)
    warnings.showwarning = _show_warning  # type: ignore[assignment]


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if not is_first():
        return
    sentence, *table = str(message).splitlines()
    print(f"Warning: {sentence}", *table, sep="\n  ", file=sys.stderr, flush=True)


@functools.cache
def _parser() -> Any:
    """What reads a command line, made once."""
    return typer.main.get_command(app)


def _wait_patiently() -> None:
    """Let OpenMP threads that wait for each other sleep, unless the user has said how they are to wait.

    On cores that others use too, threads that spin keep from running those that they wait for. It is read
    when PyTorch is imported.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _json_values(arguments: Sequence[str]) -> list[str]:
    """Give a bare `--json` its value, `-`; what follows it is a file name if it ends in .json or is `-`."""
    given = list(arguments)
    for index, word in enumerate(given):
        following = given[index + 1] if index + 1 < len(given) else ""
        if word == "--json" and following != "-" and not following.endswith(".json"):
            given[index] = "--json=-"
    return given


def _terminate(*_: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """A termination signal ends a run as Ctrl-C does. A signal that the parent had this process ignore, as shells
    have their background jobs ignore Ctrl-C, stays ignored; Python sees to Ctrl-C itself."""
    ours = threading.current_thread() is threading.main_thread()  # no other thread may
    if not ours or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    _wait_patiently()
    try:
        with _ending_on_sigterm():
            status = _parser().main(_json_values(arguments), prog_name="ressa", standalone_mode=False)
        sys.stdout.flush()  # a pipe that nobody reads any more is known here, not in the interpreter's teardown
    except (KeyboardInterrupt, Interrupted):
        return _fail(130, "Interrupted: nothing half-written is left; the same command goes on where it can.")
    except UsageError as error:
        return _fail(2, error.sentence, error.table)
    except RunError as error:
        return _fail(1, str(error))
    except BrokenPipeError:  # whoever read the output has seen enough (`ressa inspect … | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush is silent
        return 1
    except OSError as error:
        return _fail(1, f"The system refused: {error}.")
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # the parser's own
            return _fail(error.exit_code, f"{error.format_message().rstrip('.')}: see --help.")
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(1, "The device ran out of memory: lower --batch-size or use --device cpu.")
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # Python's and PyTorch's
            return _fail(
                1, "The machine has not enough memory: lower --batch-size, or choose a smaller model."
            )
        traceback.print_exc()
        return _fail(1, "That is a defect in ressa: please report it with the lines above.")
    return status if isinstance(status, int) else 0


def _fail(status: int, sentence: str, table: str = "") -> int:
    sentence = " ".join(sentence.split())
    if len(sentence) > LONGEST:
        sentence = f"{sentence[: LONGEST // 2]} … {sentence[-LONGEST // 2 :]}"
    said = "\n  ".join([f"ressa: {sentence}", *table.splitlines()])
    # A file name may be bytes that are no text; every stream takes what stands for them.
    print(said.encode(errors="backslashreplace").decode(), file=sys.stderr)
    return status
