"""The commands that read a model's folder: its zeros counted, packed, unpacked, timed."""

from typing import Annotated, Literal

import typer

from ressa.cli.app import command
from ressa.cli.options import Figure, Force, JsonTarget, Output
from ressa.cli.showing import prepare, show
from ressa.errors import UsageError, brief


@command
def inspect(
    model: Annotated[str, typer.Argument(help="A folder that ressa made, or any model.")],
    layers: Annotated[bool, typer.Option("--layers", help="Every layer, not only the towers.")] = False,
    figure: Figure = None,
    recipe: Annotated[
        bool,
        typer.Option("--recipe", help="Instead print the recipes it was made by, as `ressa run` takes them."),
    ] = False,
    json_target: JsonTarget = None,
) -> None:
    """Count a model's zeros.

    They are counted in the weights themselves and checked against the pattern that was asked for.

    \b
    Example:
      ressa inspect runs/pruned --layers
      ressa inspect runs/repaired --recipe > again.yaml
    """
    prepare(json_target)
    if recipe:
        if layers or figure is not None:
            raise UsageError("--recipe counts nothing: leave out --layers and --figure.")
        from ressa.commands.made_by import show_recipe

        show([show_recipe(model)], json_target)
        return
    from ressa.commands.inspect import inspect_model

    show([inspect_model(model, layers=layers, figure=figure)], json_target)


@command
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
    prepare(json_target)
    from ressa.commands.pack import pack_model

    show([pack_model(model, output, force=force)], json_target)


@command
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
    prepare(json_target)
    from ressa.commands.pack import unpack_model

    show([unpack_model(model, output, force=force)], json_target)


@command
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
    prepare(json_target)
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
    show([outcome], json_target)
