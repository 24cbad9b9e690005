"""`--dry-run`: what a recipe would read, prune, train and take; nothing is loaded, and nothing written."""

from typing import Any

from ressa.checkpoint import find, read_manifest
from ressa.commands.outcome import Outcome
from ressa.errors import UsageError
from ressa.recipe import PruneRecipe, Recipe, RepairRecipe
from ressa.report import Table

GIB = 2**30


def estimate(recipe: Recipe) -> Outcome:
    """Work out what a prune or repair recipe would do, from the model's config and the headers of its files."""
    if isinstance(recipe, PruneRecipe):
        return _pruning(recipe)
    if isinstance(recipe, RepairRecipe):
        return _repair(recipe)
    raise UsageError(f"Only pruning and repair can be estimated: leave --dry-run out of {recipe.command}.")


def _pruning(recipe: PruneRecipe) -> Outcome:
    find(recipe.model)
    from ressa.allocation import make_plan, read_plan
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import empty_model
    from ressa.commands.planning import patterns
    from ressa.device import find_device, host_memory
    from ressa.estimating import estimate_pruning, outline, product_speed
    from ressa.fused import split
    from ressa.methods import get_method

    device, method = find_device(recipe.device), get_method(recipe.method)
    model = empty_model(recipe.model)
    split(model)
    anatomy = find_anatomy(model)
    if recipe.plan is not None:
        plan = read_plan(recipe.plan)
        plan.check({name: model.get_submodule(name).weight.shape for name in anatomy.linears()})
    else:
        asked = {tower: pattern for tower, pattern in patterns(recipe).items() if tower in anatomy.towers}
        plan = make_plan({tower: "dense" if p is None else p for tower, p in asked.items()}, anatomy, model)
    shape = outline(model, anatomy)
    found = estimate_pruning(
        shape,
        plan,
        method.needs(recipe.options),
        updates=method.updates_weights,
        samples=recipe.samples,
        speed=product_speed(device, _computed_in(model, device, recipe.dtype)),
        device=device.type,
    )
    rows = []
    for tower in anatomy.towers:
        layers = [name for name in anatomy.linears(tower) if name in plan]
        weights = sum(shape.shapes[name][0] * shape.shapes[name][1] for name in layers)
        zeros = sum(plan[name].zeros(shape.shapes[name]) for name in layers)
        said = ", ".join(dict.fromkeys(str(plan[name]) for name in layers)) or "dense"
        rows.append((tower, said, str(len(layers)), f"{weights:,}", f"{zeros:,}"))
    table = Table(
        f"{recipe.model}, to be pruned by {recipe.method}",
        ("tower", "asked", "layers", "weights", "zeros"),
        tuple(rows),
    )
    lines = [f"A model of {_size(shape.size)}; its largest block has {_size(shape.block)}."]
    if recipe.allocation != "uniform":
        lines.append(
            f"The allocation {recipe.allocation} is measured first, which takes time of its own; each layer's share "
            "may be another than this."
        )
    free = host_memory()
    fits = "which holds it" if shape.size <= 0.8 * free else "so its weights would stay on disk"
    lines.append(f"The host has {_size(free)} of memory free, {fits}.")
    return _outcome(recipe, table, lines, found, layers=len(plan))


def _repair(recipe: RepairRecipe) -> Outcome:
    pruned, config = read_manifest(recipe.model), recipe.config()
    find(recipe.model)
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import empty_model
    from ressa.device import find_device
    from ressa.estimating import estimate_repair, outline, product_speed, steps_of, trainable
    from ressa.fused import split

    device = find_device(recipe.device)
    model = empty_model(recipe.model)
    split(model)
    anatomy = find_anatomy(model)
    shape = outline(model, anatomy)
    ranks: dict[str, int] = {tower: config.rank(tower) for tower in config.tune}
    steps = config.steps or steps_of(recipe.samples, config.epochs, config.batch_size)
    allowed = -(-config.reconstruct_tokens // shape.tokens["language"])
    reconstructed = min(config.reconstruct_samples, recipe.samples, allowed) if config.reconstructs else 0
    found = estimate_repair(
        shape,
        ranks,
        samples=recipe.samples,
        steps=steps,
        batch=config.batch_size,
        reconstructed=reconstructed,
        epochs=config.reconstruct_epochs,
        teacher=config.reconstructs,
        speed=product_speed(device, _computed_in(model, device, recipe.dtype)),
    )
    rows = []
    for tower in anatomy.towers:
        one = trainable(shape, {tower: ranks.get(tower, 0)})
        sparse = sum(name in pruned.plan for name in anatomy.linears(tower))
        rows.append(
            (tower, str(sparse), str(len(anatomy.linears(tower))), str(ranks.get(tower, 0)), f"{one:,}")
        )
    table = Table(
        f"{recipe.model}, to be repaired by {config.method}",
        ("tower", "pruned layers", "layers", "rank", "trained"),
        tuple(rows),
    )
    lines = [f"{steps:,} steps of {config.batch_size} samples, of {recipe.samples:,}."]
    if reconstructed:
        lines.insert(
            0,
            f"Each block is reconstructed on {reconstructed:,} samples, {config.reconstruct_epochs} times over.",
        )
    return _outcome(recipe, table, lines, found, trained=trainable(shape, ranks), steps=steps)


def _computed_in(model: Any, device: Any, asked: str) -> Any:
    import torch

    from ressa.fast_dtype import is_slow

    dtype = next(model.parameters()).dtype if asked == "auto" else getattr(torch, asked)
    return torch.float32 if asked == "auto" and is_slow(model, device) else dtype


def _outcome(recipe: Any, table: Table, lines: list[str], found: Any, **more: Any) -> Outcome:
    rows = tuple((name, _size(size)) for name, size in found.memory.items())
    memory = Table("Memory", ("for", "size"), rows)
    total = sum(found.seconds.values())
    parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in found.seconds.items() if seconds)
    lines = [
        *lines,
        f"Read: {_size(found.read)}; written: {_size(found.written)}.",
        f"About {_duration(total)} on this device ({parts}), within a factor of two or so.",
        "Nothing was loaded, and nothing was written.",
    ]
    data = {
        "model": recipe.model,
        "recipe": recipe.model_dump(mode="json"),
        "read": found.read,
        "written": found.written,
        "memory": found.memory,
        "seconds": {name: round(seconds, 1) for name, seconds in found.seconds.items()},
        **more,
    }
    return Outcome(data, [table, memory], lines)


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB // 10 else f"{size / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than a second"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
