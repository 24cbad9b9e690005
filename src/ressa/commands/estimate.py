"""`--dry-run`: what recipes would read, prune, train, ask and take; nothing is loaded, and nothing written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ressa.commands.foresight import GIB, Foresight, Seen
from ressa.commands.outcome import Outcome
from ressa.data.folder import CALIBRATED, TRAINED
from ressa.errors import UsageError
from ressa.recipe import DENSE, DemoRecipe, EvaluateRecipe, PruneRecipe, Recipe, RepairRecipe, SweepRecipe
from ressa.recipe.text import texts_beside
from ressa.report import Table

if TYPE_CHECKING:
    from ressa.evaluation import Drawn

PROMPTS = 1_000  # of each task, where a recipe asks for all and so says no number
CAPTIONS = 5  # of an image in a retrieval pool, as COCO and Flickr30k have them


def estimate(recipes: Sequence[Recipe]) -> list[Outcome]:
    """Work out what recipes would do, one after the other, from models' configs and the headers of their files.

    A model that an earlier recipe makes is known by its shapes. One outcome a recipe; of several recipes the first
    shows all of them in a table, and what is missing is told at the end.
    """
    sight = Foresight()
    steps = [each for recipe in recipes for each in _parts(recipe)]
    found = [_estimate(recipe, sight) for recipe in steps]
    missing = list(sight.missing.values())
    said = [f"Missing: {sentence}" for sentence in missing]
    if len(found) > 1:
        found = _together(steps, found)
    last = found[-1]
    end = "Nothing was loaded, and nothing was written."
    found[-1] = replace(last, lines=[*last.lines, *said, end])
    return [replace(each, data={**each.data, "missing": missing}) for each in found]


def _parts(recipe: Recipe) -> list[Recipe]:
    """The recipes that a recipe consists of."""
    if not isinstance(recipe, DemoRecipe):
        return [recipe]
    dense = recipe.evaluate("dense").model_copy(update={"model": recipe.model})
    return [recipe.prune, recipe.repair, dense, recipe.evaluate("pruned"), recipe.evaluate("repaired")]


def _estimate(recipe: Recipe, sight: Foresight) -> Outcome:
    if isinstance(recipe, PruneRecipe):
        return _pruning(recipe, sight)
    if isinstance(recipe, RepairRecipe):
        return _repair(recipe, sight)
    if isinstance(recipe, EvaluateRecipe) and recipe.harness is None:
        return _evaluation(recipe, sight)
    if isinstance(recipe, SweepRecipe):
        return _sweep(recipe, sight)
    return _not_estimated(recipe)


def _not_estimated(recipe: Recipe) -> Outcome:
    """The outcome of a recipe of which nothing can be said."""
    data: dict[str, Any] = {
        "command": recipe.command,
        "summary": "not estimated",
        "recipe": recipe.model_dump(mode="json"),
        "read": 0,
        "written": 0,
        "memory": {},
        "seconds": {},
        "seconds_on_h100": {},
    }
    return Outcome(data, [], [f"What this `ressa {recipe.command}` takes is not estimated."])


def _together(recipes: Sequence[Recipe], found: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of several recipes, as one table and the sums."""
    rows = []
    for number, (recipe, outcome) in enumerate(zip(recipes, found, strict=True), 1):
        data = outcome.data
        rows.append(
            (
                f"{number} {recipe.command}",
                str(getattr(recipe, "output", None) or getattr(recipe, "model", "")),
                data["summary"],
                _size(sum(data["memory"].values())),
                _size(data["written"]),
                _duration(sum(data["seconds"].values())),
            )
        )
    total = sum(sum(outcome.data["seconds"].values()) for outcome in found)
    on_h100 = sum(sum(outcome.data["seconds_on_h100"].values()) for outcome in found)
    written = sum(outcome.data["written"] for outcome in found)
    table = Table("", ("step", "result", "what", "memory", "written", "time"), tuple(rows))
    lines = [
        f"{len(found)} steps; {_size(written)} written in all.",
        f"About {_duration(total)} on this device{_on_h100(on_h100, total)}, within a factor of two or so.",
    ]
    if any(outcome.data.get("guessed") for outcome in found):
        lines.append(
            f"Of evaluations without a limit that is the time of {PROMPTS:,} prompts a task; all there are is asked."
        )
    plain = [replace(outcome, tables=[], lines=[]) for outcome in found]
    plain[0] = replace(plain[0], tables=[table])
    plain[-1] = replace(plain[-1], lines=lines)
    return plain


def _pruning(recipe: PruneRecipe, sight: Foresight) -> Outcome:
    sight.data(recipe.calibration, recipe.mixture, recipe.split, CALIBRATED)
    seen = sight.look(recipe.model)
    from ressa.allocation import make_plan, read_plan
    from ressa.commands.planning import patterns
    from ressa.device import host_memory
    from ressa.estimating import estimate_pruning
    from ressa.methods import get_method

    method = get_method(recipe.method)
    model, anatomy, shape = seen.model, seen.anatomy, seen.shape
    if recipe.plan is not None:
        plan = read_plan(recipe.plan)
        plan.check({name: model.get_submodule(name).weight.shape for name in anatomy.linears()})
    else:
        asked = {tower: pattern for tower, pattern in patterns(recipe).items() if tower in anatomy.towers}
        plan = sight.once(
            ("plan", sight.origin(recipe.model), tuple(asked.items())),
            lambda: make_plan({t: DENSE if p is None else p for t, p in asked.items()}, anatomy, model),
        )
    sight.will_make(recipe.output, recipe.model, plan)
    texts = 0 if recipe.text is None else recipe.text_samples * recipe.text_tokens // shape.tokens["language"]
    found = [
        estimate_pruning(
            shape,
            plan,
            method.needs(recipe.options),
            updates=method.updates_weights,
            samples=recipe.samples + texts,  # as many as have their tokens
            speed=speed,
            device=kind,
        )
        for speed, kind in _speeds(recipe, sight)
    ]
    rows = []
    for tower in anatomy.towers:
        layers = [name for name in anatomy.linears(tower) if name in plan]
        weights = sum(shape.shapes[name][0] * shape.shapes[name][1] for name in layers)
        zeros = sum(plan[name].zeros(shape.shapes[name]) for name in layers)
        said = ", ".join(dict.fromkeys(str(plan[name]) for name in layers)) or DENSE
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
    how = recipe.method if recipe.allocation == "uniform" else f"{recipe.method}, {recipe.allocation}"
    towers = " ".join(dict.fromkeys(row[1] for row in rows if row[1] != DENSE))
    return _outcome(recipe, table, lines, found, f"{how}, {towers}", layers=len(plan))


def _repair(recipe: RepairRecipe, sight: Foresight) -> Outcome:
    sight.data(recipe.data, recipe.mixture, recipe.split, TRAINED)
    sparse, config = sight.plan(recipe.model), recipe.config()
    seen = sight.look(recipe.model)
    sight.will_make(recipe.output, recipe.model, sparse)
    from ressa.estimating import estimate_repair, steps_of, trainable

    anatomy, shape = seen.anatomy, seen.shape
    ranks: dict[str, int] = {tower: config.rank(tower) for tower in config.tune}
    texts = 0 if recipe.text is None else texts_beside(recipe.samples, recipe.text_share)
    samples = recipe.samples + texts
    steps = config.steps or (0 if config.minutes else steps_of(samples, config.epochs, config.batch_size))
    allowed = -(-config.reconstruct_tokens // shape.tokens["language"])
    reconstructed = min(config.reconstruct_samples, samples, allowed) if config.reconstructs else 0
    found = [
        estimate_repair(
            shape,
            ranks,
            samples=samples,
            steps=steps,
            batch=config.batch_size,
            reconstructed=reconstructed,
            epochs=config.reconstruct_epochs,
            teacher=config.reconstructs,
            speed=speed,
        )
        for speed, _ in _speeds(recipe, sight)
    ]
    if config.minutes:
        found = [replace(one, seconds={**one.seconds, "train": 60 * config.minutes}) for one in found]
    rows = []
    for tower in anatomy.towers:
        one = trainable(shape, {tower: ranks.get(tower, 0)})
        pruned = sum(name in sparse for name in anatomy.linears(tower))
        rows.append(
            (tower, str(pruned), str(len(anatomy.linears(tower))), str(ranks.get(tower, 0)), f"{one:,}")
        )
    table = Table(
        f"{recipe.model}, to be repaired by {config.method}",
        ("tower", "pruned layers", "layers", "rank", "trained"),
        tuple(rows),
    )
    many = f"{steps:,} steps" if steps else f"As many steps as {config.minutes:g} minutes take"
    drawn = f"of {recipe.samples:,}" + (f" and {texts:,} texts" if texts else "")
    lines = [f"{many} of {config.batch_size} samples, {drawn}."]
    if reconstructed:
        lines.insert(
            0,
            f"Each block is reconstructed on {reconstructed:,} samples, {config.reconstruct_epochs} times over.",
        )
    trained = trainable(shape, ranks)
    long = f"{steps:,} × {config.batch_size}" if steps else f"{config.minutes:g} minutes"
    what = f"{config.method}, {long}, {trained / 1e6:.1f} M trained"
    return _outcome(recipe, table, lines, found, what, trained=trained, steps=steps)


def _evaluation(recipe: EvaluateRecipe, sight: Foresight) -> Outcome:
    if recipe.harness is not None:
        raise UsageError(f"What {recipe.harness} asks is its own: leave --dry-run out.")
    drawn = sight.asked(recipe)
    tasks = _tasks(recipe, drawn)
    seen = sight.look(recipe.model)
    found = [_asked(recipe, tasks, seen, speed) for speed, _ in _speeds(recipe, sight)]
    table = Table(f"{recipe.model}, to be asked", ("task", "prompts", "tokens", "beams"), _rows(tasks))
    asked = ", ".join(each.name for each in tasks)
    guessed = drawn is None and not recipe.limit
    return _outcome(recipe, table, _unknown(recipe, drawn), found, asked, guessed=guessed)


def _sweep(recipe: SweepRecipe, sight: Foresight) -> Outcome:
    from ressa.sweep import DENSE as UNPRUNED
    from ressa.sweep import points_of

    sight.data(recipe.calibration, recipe.mixture, recipe.calibration_split, CALIBRATED)
    drawn = sight.asked(recipe)
    tasks = _tasks(recipe, drawn)
    seen = sight.look(recipe.model)
    from ressa.allocation.uniform import per_tower
    from ressa.estimating import Estimate, estimate_pruning
    from ressa.methods import get_method
    from ressa.sparsity import parse_pattern

    method = get_method(recipe.method)
    points = points_of(recipe.figure)
    count = len(points) * len(recipe.seeds)
    plans = []
    for point in points:
        towers = {"vision": point.vision, "language": point.language}
        patterns = {
            t: None if p == UNPRUNED else parse_pattern(p, scope=method.scope) for t, p in towers.items()
        }
        plans.append(per_tower(seen.anatomy, seen.model, patterns))

    def take(speed: float, kind: str) -> Estimate:
        asking = _asked(recipe, tasks, seen, speed)
        pruning = [
            estimate_pruning(
                seen.shape,
                plan,
                method.needs(recipe.options),
                updates=method.updates_weights,
                samples=recipe.samples,
                speed=speed,
                device=kind,
            )
            for plan in plans
        ]
        once = sum(one.seconds["calibrate"] + one.seconds["prune"] for one in pruning)
        return Estimate(
            read=asking.read,
            written=0,
            memory={**asking.memory, "the dense weights": seen.shape.size},
            seconds={
                "load": asking.seconds["load"],
                "prune": once * len(recipe.seeds),
                "ask": (asking.seconds["answer"] + asking.seconds["compare"]) * (count + 1),
            },
        )

    found = [take(speed, kind) for speed, kind in _speeds(recipe, sight)]
    title = f"{recipe.model}, to be pruned {count} times and asked each time"
    table = Table(title, ("task", "prompts", "tokens", "beams"), _rows(tasks))
    return _outcome(
        recipe,
        table,
        _unknown(recipe, drawn),
        found,
        f"{recipe.figure}, {count} points, {recipe.method}",
        points=count,
    )


@dataclass(frozen=True)
class _Task:
    """What one task comes to: prompts, each answered in so many tokens, or pairs of image and caption."""

    name: str
    prompts: int
    tokens: int
    beams: int
    pairs: int = 0


def _tasks(recipe: EvaluateRecipe | SweepRecipe, drawn: "Drawn | None") -> list[_Task]:
    """drawn: what will be asked, where that is known; else an image is taken for one prompt."""
    from ressa.evaluation.protocols import settings_of

    found = []
    for name in recipe.tasks if drawn is None else drawn.samples:
        settings = settings_of(name, **recipe.asking())
        samples = None if drawn is None else drawn.samples[name]
        if name == "retrieval":
            images = min(recipe.pool, recipe.limit or recipe.pool) if samples is None else len(samples)
            captions = CAPTIONS * images if samples is None else sum(len(each.captions) for each in samples)
            found.append(_Task(name, images, 0, 1, captions * images))
        else:
            prompts = (recipe.limit or PROMPTS) if samples is None else len(samples)
            found.append(_Task(name, prompts, settings.tokens[1], settings.beams))
    return found


def _unknown(recipe: EvaluateRecipe | SweepRecipe, drawn: "Drawn | None") -> list[str]:
    if drawn is not None:
        return []
    if recipe.limit:
        return ["The data are not at hand, so an image is taken for one prompt of each task."]
    return [f"All there are is asked; time and tokens are those of {PROMPTS:,} prompts of each task."]


def _rows(tasks: Sequence[_Task]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (each.name, f"{each.pairs:,} pairs", "–", "–")
        if each.pairs
        else (each.name, f"{each.prompts:,}", f"{each.tokens}", f"{each.beams}")
        for each in tasks
    )


def _asked(recipe: EvaluateRecipe | SweepRecipe, tasks: Sequence[_Task], seen: Seen, speed: float) -> Any:
    """What the tasks of a recipe take, one after the other."""
    from ressa.estimating import Estimate, estimate_evaluation

    parts = [
        estimate_evaluation(
            seen.shape,
            prompts=each.prompts,
            pairs=each.pairs,
            tokens=each.tokens,
            batch=recipe.batch_size,
            beams=each.beams,
            speed=speed,
        )
        for each in tasks
    ]
    memory = {name: max(part.memory[name] for part in parts) for name in parts[0].memory}
    seconds = {name: sum(part.seconds[name] for part in parts) for name in ("answer", "compare")}
    load = {"load": parts[0].seconds["load"]}
    return Estimate(read=parts[0].read, written=0, memory=memory, seconds=load | seconds)


def _speeds(recipe: Any, sight: Foresight) -> list[tuple[float, str]]:
    """Operations a second and kind: of this device, and of an H100."""
    from ressa.device import find_device
    from ressa.estimating import H100, product_speed

    device = find_device(recipe.device)
    dtype = sight.once(
        ("dtype", sight.origin(recipe.model), device, recipe.dtype),
        lambda: _computed_in(sight.look(recipe.model).model, device, recipe.dtype),
    )
    return [(product_speed(device, dtype), device.type), (H100, "cuda")]


def _computed_in(model: Any, device: Any, asked: str) -> Any:
    import torch

    from ressa.fast_dtype import is_slow

    dtype = next(model.parameters()).dtype if asked == "auto" else getattr(torch, asked)
    return torch.float32 if asked == "auto" and is_slow(model, device) else dtype


def _outcome(
    recipe: Any, table: Table, lines: list[str], estimates: Sequence[Any], summary: str, **more: Any
) -> Outcome:
    """estimates: of this device, and of an H100."""
    found, fast = estimates
    rows = tuple((name, _size(size)) for name, size in found.memory.items())
    memory = Table("Memory", ("for", "size"), rows)
    total = sum(found.seconds.values())
    parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in found.seconds.items() if seconds)
    lines = [
        *lines,
        f"Read: {_size(found.read)}; written: {_size(found.written)}.",
        f"About {_duration(total)} on this device ({parts}){_on_h100(sum(fast.seconds.values()), total)}, "
        "within a factor of two or so.",
    ]
    data = {
        "command": recipe.command,
        "model": recipe.model,
        "summary": summary,
        "recipe": recipe.model_dump(mode="json"),
        "read": found.read,
        "written": found.written,
        "memory": found.memory,
        "seconds": {name: round(seconds, 1) for name, seconds in found.seconds.items()},
        "seconds_on_h100": {name: round(seconds, 1) for name, seconds in fast.seconds.items()},
        **more,
    }
    return Outcome(data, [table, memory], lines)


def _on_h100(seconds: float, here: float) -> str:
    """Little of what is so small there that other things than products take its time, nothing of what is so here."""
    if here < 60:
        return ""
    return f", {_duration(seconds) if seconds >= 60 else 'less than a minute'} on one H100"


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB // 10 else f"{size / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than a second"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
