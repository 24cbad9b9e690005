"""Methods × patterns × repairs × seeds on one model: every task's score, side by side.

    python benchmarks/compare.py embedded-llava -o runs/compare                          # methods × patterns
    python benchmarks/compare.py embedded-llava -o runs/compare --methods wanda,sparsegpt --rates 3e-4,1e-3,3e-3 \\
        --repairs none,reconstruct,lora,lora_remask,masked_finetune,task,kd,both         # repairs
    python benchmarks/compare.py embedded-llava -o runs/compare --methods wanda --patterns 2:4 \\
        --repairs "both,both kd_weight=0.5,both rank_language=4"                          # ablations
    python benchmarks/compare.py embedded-llava -o runs/compare --cells cells.txt           # those, in this order
    python benchmarks/compare.py embedded-llava -o runs/compare --smoke                   # seconds, on any machine

Every cell goes through `ressa prune`, `ressa repair` and `ressa evaluate`, from folder to folder; vision and language
are pruned alike, the connector is not. A seed draws the calibration and the training samples; the test images are
the same for all. With `--text` the perplexity on a text is measured too, as `perplexity.py` does. Methods and repairs
may carry changes of their recipes ("sparsegpt text=own", "both kd_weight=0.5"), and one repair may follow another
("reconstruct then both"). Every finished cell is a file, so a
run that was cut short goes on, and a wider one adds to it; `--stop-after` cuts short by itself, tables and all.
`--jobs` cells run at a time, in the order they are named in, spread over the GPUs there are; each worker's progress
is in `logs/`. The tables go to `MODEL.md` and `MODEL.csv`.
"""

import argparse
import csv
import gc
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import wait
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from ressa.files import write_json, write_text
from ressa.recipe import EvaluateRecipe, PruneRecipe, RepairRecipe
from ressa.report import Table, recovered
from ressa.report.table import task_title
from ressa.stopwatch import Stopwatch
from ressa.sweep import relative
from ressa.task_names import TASKS

NONE, THEN = "none", " then "
LONGEST = 100  # characters of a cell's name
REPAIRS: dict[str, dict[str, Any]] = {
    "reconstruct": {"method": "reconstruct"},
    "lora": {"method": "lora"},
    "lora_remask": {"method": "lora_remask"},
    "masked_finetune": {"method": "masked_finetune"},
    "task": {"objective": "task"},
    "kd": {"objective": "kd"},
    "both": {},
    "warm_start": {"warm_start": True},
    "default": {},
}
"""Name → what is not SparseLoRA with task loss and distillation from the pruned weights on; `default` is what
`ressa repair` does."""

RATE, RATE_KEYS = 1e-3, {"reconstruct": "reconstruct_rate"}
"""The learning rate where none is chosen, and the option that it is, where that is not `learning_rate`. Reconstruction
has rates of its own unless one is chosen."""
TUNED_ON = ("wanda", ("2:4", "0.7"), 0)
"""The method, patterns and seed on which `--rates` chooses, by the `val` split."""
METHODS: dict[str, dict[str, Any]] = {"atv": {"method": "wanda", "tokens": "atv"}}
"""Name → keys of the prune recipe, where the name is not simply the method's."""


def changed(text: str) -> tuple[str, dict[str, Any]]:
    """A name, and what is changed behind it: "NAME key=value key=value"."""
    name, *changes = text.split()
    return name, {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in changes)}


@dataclass(frozen=True)
class Cell:
    """One model that is scored: pruned by a method to a pattern, perhaps repaired, with a seed."""

    method: str
    pattern: str
    seed: int
    repair: str = NONE
    split: str = "test"

    @property
    def pruned(self) -> "Cell":
        return Cell(self.method, self.pattern, self.seed)

    @property
    def steps(self) -> list[str]:
        """The repairs, one after the other."""
        return [] if self.repair == NONE else self.repair.split(THEN)

    @property
    def start(self) -> "Cell | None":
        """Whose model this one's is made from; None where that is the dense one."""
        if self.repair == NONE:
            return None
        return replace(self, repair=THEN.join(self.steps[:-1]) or NONE, split=DENSE.split)

    @property
    def name(self) -> str:
        """A file's or folder's, of plain characters; of a long one the first, and a digest of all."""
        parts = (self.method, self.pattern, str(self.seed), self.repair, self.split)
        whole = "-".join(parts).replace(" ", "-")
        plain = re.sub(r"[^\w.-]", "_", whole, flags=re.ASCII)
        if len(plain) <= LONGEST:
            return plain
        return f"{plain[:LONGEST]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


DENSE = Cell("dense", "", 0)


@dataclass(frozen=True)
class Study:
    """What all cells of a run share: the model, the sizes, where everything is kept."""

    model: str
    folder: Path
    calibration_samples: int
    samples: int
    batch_size: int
    evaluation_batch: int
    limit: int
    pool: int
    tasks: tuple[str, ...]
    device: str
    rates: Mapping[str, float]
    text: Path | None = None
    loaders: int | None = None
    keep: bool = False

    @property
    def name(self) -> str:
        return Path(self.model).name

    def prune(self, cell: Cell) -> PruneRecipe:
        name, changes = changed(cell.method)
        keys = METHODS.get(name, {"method": name}) | changes
        return PruneRecipe(
            model=self.model,
            output=self.place(cell.pruned),
            pattern=cell.pattern,
            seed=cell.seed,
            device=self.device,
            **({"samples": self.calibration_samples} | keys),
        )

    def repair(self, cell: Cell) -> RepairRecipe:
        """The repair a cell names; after the name, "key=value" changes a key of the recipe or an option."""
        name, changes = changed(cell.steps[-1])
        options: dict[str, Any] = {"checkpoints": 0, "workers": self.loaders}
        keys: dict[str, Any] = {}
        given: dict[str, Any] = dict(REPAIRS[name])
        if name != "default":
            keys = {
                "samples": self.samples,
                "batch_size": self.batch_size,
                "rank_vision": 8,
                "rank_connector": 2,
                "rank_language": 16,
                "warm_start": False,
            }
            key = RATE_KEYS.get(name, "learning_rate")
            rate = self.rates.get(name, RATE if key == "learning_rate" else None)
            if rate is not None:
                given[key] = rate
        for key, value in (given | changes).items():
            (keys if key in RepairRecipe.model_fields else options)[key] = value
        assert cell.start is not None
        return RepairRecipe(
            model=str(self.place(cell.start)),
            dense=self.model,
            output=self.place(cell),
            seed=cell.seed,
            device=self.device,
            options=options,
            **keys,
        )

    def place(self, cell: Cell) -> Path:
        """The folder of a cell's model."""
        kind = "pruned" if cell.repair == NONE else "repaired"
        return self.folder / kind / self.name / (cell.pruned if cell.repair == NONE else cell).name

    def evaluate(self, model: str | Path, split: str) -> EvaluateRecipe:
        return EvaluateRecipe(
            model=str(model),
            split=split,
            tasks=self.tasks,
            limit=self.limit,
            pool=self.pool,
            batch_size=self.evaluation_batch,
            device=self.device,
        )

    def point(self, cell: Cell) -> Path:
        return self.folder / "points" / self.name / f"{cell.name}.json"

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What decides a cell's scores, as JSON-able data."""
        found: dict[str, Any] = {"evaluate": self.evaluate(self.model, cell.split).identity()}
        if self.text is not None:
            found["text"] = str(self.text)
        if cell.method != DENSE.method:
            found["prune"] = self.prune(cell).identity()
        if cell.repair != NONE:
            found["repair"] = self.repair(cell).identity() | {"model": None}
        if len(cell.steps) > 1:
            assert cell.start is not None
            found["start"] = self.identity(cell.start)
        return found

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell; None where there is none of these settings."""
        path = self.point(cell)
        point = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return point if point and point["identity"] == self.identity(cell) else None


def read_cells(path: Path) -> list[tuple[str, str, str]]:
    """Method, pattern and repair of each line of a file; what is behind a # is not read."""
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    parts = [[" ".join(part.split()) for part in line.split("|")] for line in lines if line]
    if bad := [" | ".join(part) for part in parts if len(part) != 3]:
        sys.exit(f"'{bad[0]}' in {path} is not METHOD | PATTERN | REPAIR.")
    return [(method, pattern, repair) for method, pattern, repair in parts]


def settle(numbers: Any, over: Any, logs: Path) -> None:
    """In a new worker process: one GPU of those there are, one thread, a log of its own."""
    # For a repair's loaders: started anew, each would be given all samples first.
    set_start_method("fork", force=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    number = numbers.get()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else _gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    logs.mkdir(parents=True, exist_ok=True)
    log = open(logs / f"{number}.log", "a", buffering=1)  # noqa: SIM115 - for as long as the process lives
    os.dup2(log.fileno(), 2)
    threading.Thread(target=_leave_when_over, args=(over,), daemon=True).start()


def _leave_when_over(over: Any) -> None:
    """over: its other end is closed when the run is killed or its time is up, and nobody waits for a cell any more."""
    wait([over])
    os._exit(1)


def _gpus() -> list[str]:
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def run(study: Study, cell: Cell, keep: bool) -> dict[str, Any]:
    """Make a cell's model, score it, and note both; keep: leave a repaired model where it is."""
    import torch

    from ressa.checkpoint import read_manifest
    from ressa.commands.evaluate import run_evaluate
    from ressa.commands.prune import run_prune
    from ressa.commands.repair import run_repair

    torch.set_num_threads(1)
    watch = Stopwatch()
    point: dict[str, Any] = {"identity": study.identity(cell)}
    model: str | Path = study.model
    if cell.method != DENSE.method and len(cell.steps) < 2:
        recipe = study.prune(cell)
        with watch.on("prune"):
            run_prune(recipe)
        model = recipe.output
        point["prune_seconds"] = read_manifest(model).seconds
    if cell.repair != NONE:
        repair = study.repair(cell)
        with watch.on("repair"):
            run_repair(repair, force=True)
        model = repair.output
        manifest = read_manifest(model)
        training = manifest.model_dump(mode="json")["training"]
        before = read_manifest(repair.model).seconds if len(cell.steps) > 1 else 0.0
        point |= {"repair_seconds": manifest.seconds + before, "teacher": training["teacher"]}
        point |= {"trained": training["trained"], "steps": training["steps"]}
        point |= {"held_back": training["held_back"], "repair_spent": manifest.spent}
        point["loss"] = [entry["loss"] for entry in training["history"]][-1:]
    with watch.on("evaluate"):
        found = run_evaluate(study.evaluate(model, cell.split)).data
    point |= {key: found[key] for key in ("tasks", "average", "sparsity", "versions", "data")}
    if study.text is not None:
        with watch.on("perplexity"):
            point["perplexity"] = perplexity_of(model, study)
    point |= {"spent": watch.rounded(), "seconds": round(sum(watch.seconds.values()), 1)}
    if torch.cuda.is_available():  # what this cell took is the other workers' again
        point["gigabytes"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    write_json(study.point(cell), point)
    if cell.repair != NONE and not keep:
        shutil.rmtree(model)
    return point


def perplexity_of(model: str | Path, study: Study) -> float:
    """As `perplexity.py` measures it."""
    from ressa.checkpoint import load
    from ressa.data.plain_text import read_text
    from ressa.device import find_device
    from ressa.evaluation.perplexity import perplexity

    assert study.text is not None
    vlm = load(str(model), device=find_device(study.device))
    return perplexity(vlm.model, vlm.processor.tokenizer, read_text(study.text))


def behind_their_starts(study: Study, cells: Iterable[Cell]) -> list[Cell]:
    """Cells in order, each behind those that it starts from and whose models are not there."""
    found: dict[Cell, None] = {}

    def add(cell: Cell) -> None:
        if cell.start is not None and not study.place(cell.start).is_dir():
            add(cell.start)
        found.setdefault(cell)

    for cell in cells:
        add(cell)
    return list(found)


def carry_out(study: Study, cells: Iterable[Cell], jobs: int, stop_at: float = math.inf) -> int:
    """Run the cells that are missing, each as soon as what it starts from is there; how many failed.

    stop_at: by `time.monotonic`; what is unfinished then is given up, and does not count as failed.
    """
    waiting = behind_their_starts(study, (cell for cell in cells if study.read(cell) is None))
    starts = {cell.start for cell in waiting}
    total, done, failed, started = len(waiting), 0, 0, time.perf_counter()
    context = get_context("spawn")
    numbers: Any = context.Queue()
    for number in range(jobs):
        numbers.put(number)
    over, end = context.Pipe(duplex=False)
    clock = threading.Timer(min(stop_at - time.monotonic(), threading.TIMEOUT_MAX), end.close)
    clock.daemon = True
    clock.start()
    made = (numbers, over, study.folder / "logs")
    running: dict[Future[dict[str, Any]], Cell] = {}
    try:
        with ProcessPoolExecutor(jobs, context, initializer=settle, initargs=made) as pool:
            while waiting or running:
                for cell in [cell for cell in waiting if cell.start not in (*waiting, *running.values())]:
                    if len(running) < jobs:
                        waiting.remove(cell)
                        running[pool.submit(run, study, cell, study.keep or cell in starts)] = cell
                for future in wait_for(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    try:
                        said = told(future.result())
                    except BrokenExecutor:
                        raise
                    except Exception as problem:
                        failed += 1
                        said = f"failed: {''.join(traceback.format_exception(problem))}"
                    done += 1
                    left = (time.perf_counter() - started) / done * (total - done)
                    print(f"[{done}/{total}, {left / 60:.1f} min left] {cell.name}: {said}", flush=True)
    except BrokenExecutor as problem:
        if time.monotonic() < stop_at:
            print(f"a worker died ({problem}): the last of its log, in {study.folder / 'logs'}, may say why")
            return failed + total - done
        print(f"The time is up with {total - done} cells unfinished: the same command goes on with them.")
    finally:
        clock.cancel()
    return failed


def told(point: Mapping[str, Any]) -> str:
    """A finished cell in one line: what it scores and what it took."""
    parts = [f"{task} {score:.1f}" for task, score in scores(point).items()]
    parts += [f"perplexity {point['perplexity']:.2f}"] if "perplexity" in point else []
    spent = {**point["spent"], **{f"repair's {what}": s for what, s in point.get("repair_spent", {}).items()}}
    took = ", ".join(f"{what} {seconds:.0f}" for what, seconds in spent.items())
    memory = f", {point['gigabytes']} GB" if "gigabytes" in point else ""
    return f"{', '.join(parts)}; {point['seconds']:.0f} s ({took}){memory}"


def choose_rates(study: Study, repairs: Iterable[str], rates: Sequence[float], jobs: int) -> dict[str, float]:
    """Repair → its best rate: most per cent of the dense model's scores on `val`, mean over the patterns."""
    method, patterns, seed = TUNED_ON
    dense = Cell(DENSE.method, "", seed, split="val")
    names = list(dict.fromkeys(repair.split()[0] for repair in repairs if repair != NONE))

    def cells(name: str, rate: float) -> list[Cell]:
        repair = f"{name} {RATE_KEYS.get(name, 'learning_rate')}={rate}"
        return [Cell(method, pattern, seed, repair, "val") for pattern in patterns]

    wanted = [dense, *(cell for name in names for rate in rates for cell in cells(name, rate))]
    if carry_out(study, wanted, jobs):
        sys.exit("some of the cells to choose the rates by failed: their errors are above.")
    at_best = study.read(dense)
    assert at_best is not None

    def score(name: str, rate: float) -> float:
        points = [study.read(cell) for cell in cells(name, rate)]
        return mean(relative(scores(point), scores(at_best)) for point in points if point)

    found = {name: {rate: score(name, rate) for rate in rates} for name in names}
    chosen = {name: max(by_rate, key=by_rate.__getitem__) for name, by_rate in found.items()}
    for name, by_rate in found.items():
        tried = ", ".join(f"{rate:g}: {value:.1f} %" for rate, value in by_rate.items())
        print(f"{name}: rate {chosen[name]:g} ({tried} of dense on val)", flush=True)
    return chosen


# -- tables -------------------------------------------------------------------------------------------------


def scores(point: Mapping[str, Any]) -> dict[str, float]:
    return {task: found["score"] for task, found in point["tasks"].items()}


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def table(study: Study, cells: Sequence[Cell], pattern: str, dense: Mapping[str, Any]) -> Table:
    """One row a method and repair, over the seeds.

    "% of dense": mean over tasks of the score in per cent of the dense model's. "gain": the average's, in per cent of
    the pruned model's average. "recovered": the share of the average that pruning lost and repair brought back.
    """
    tasks = list(dense["tasks"])
    titles = [task_title(task, dense["tasks"][task]) for task in tasks]
    reads = "perplexity" in dense
    columns = ("", *titles, "average", "% of dense", "gain", "recovered", "zeros V / L", "seeds")
    columns += ("perplexity", "of dense") if reads else ()
    first = [f"{score:.1f}" for score in (*scores(dense).values(), dense["average"], 100.0)]
    first += ["", "", "", "", *((f"{dense['perplexity']:.2f}", "1.000 ×") if reads else ())]
    rows: list[tuple[str, ...]] = [("dense", *first)]
    for method, repair in dict.fromkeys((c.method, c.repair) for c in cells if c.pattern == pattern):
        mine = [c for c in cells if (c.method, c.pattern, c.repair) == (method, pattern, repair)]
        pairs = [(study.read(c), study.read(c.pruned)) for c in mine]
        points = [point for point, _ in pairs if point]
        if not points:
            continue
        gains, shares = [], []
        for point, pruned in pairs:
            if repair != NONE and point and pruned:
                gains += [100 * (point["average"] / pruned["average"] - 1)] if pruned["average"] else []
                share = recovered(dense["average"], pruned["average"], point["average"])
                shares += [] if share is None else [100 * share]
        zeros = [mean(point["sparsity"][tower] for point in points) for tower in ("vision", "language")]
        row = [spread([scores(point)[task] for point in points]) for task in tasks]
        row += [spread([point["average"] for point in points])]
        row += [spread([relative(scores(point), scores(dense)) for point in points])]
        row += [f"{spread(values)} %" if values else "" for values in (gains, shares)]
        row += [" / ".join(f"{share:.0%}" for share in zeros), str(len(points))]
        if reads:
            found = [point["perplexity"] for point in points]
            row += [f"{mean(found):.2f}", f"{mean(found) / dense['perplexity']:.3f} ×"]
        rows.append((method if repair == NONE else f"{method}, {repair}", *row))
    return Table(f"{study.model}, {pattern}", columns, tuple(rows))


def csv_of(study: Study, cells: Sequence[Cell], dense: Mapping[str, Any]) -> str:
    """One line a finished cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ("model", "method", "pattern", "repair", "seed", *scores(dense), "average", "relative")
    writer.writerow(
        (*head, "zeros_vision", "zeros_language", "prune_seconds", "repair_seconds", "perplexity")
    )
    for cell in (DENSE, *cells):
        point = study.read(cell)
        if point is None:
            continue
        shares = (*scores(point).values(), point["average"], relative(scores(point), scores(dense)))
        zeros = (point["sparsity"].get(tower, 0.0) for tower in ("vision", "language"))
        seconds = (point.get("prune_seconds", ""), point.get("repair_seconds", ""))
        read = round(point["perplexity"], 3) if "perplexity" in point else ""
        named = (study.model, cell.method, cell.pattern, cell.repair, cell.seed)
        writer.writerow(
            (*named, *(round(s, 2) for s in shares), *(round(z, 4) for z in zeros), *seconds, read)
        )
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="embedded-llava")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/compare"))
    parser.add_argument("--name", help="of the tables' files (default: the model's)")
    parser.add_argument(
        "--methods", default="random,magnitude,wanda,sparsegpt,dsnot,atv", help="'': the dense model alone"
    )
    parser.add_argument("--patterns", default="0.5,0.6,0.7,2:4,4:8")
    parser.add_argument("--repairs", default=NONE, help=f"of {NONE}, {', '.join(REPAIRS)}, each with changes")
    parser.add_argument(
        "--cells",
        type=Path,
        help="a file of lines METHOD | PATTERN | REPAIR to run instead of all combinations",
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--calibration-samples", type=int, default=128)
    parser.add_argument("--samples", type=int, default=12_800, help="training samples of a repair")
    parser.add_argument("--batch-size", type=int, default=32, help="of a repair")
    parser.add_argument("--evaluation-batch", type=int, default=64, help="questions answered at a time")
    parser.add_argument(
        "--rates", help=f"let each repair choose among these on `val`, such as 3e-4,1e-3,3e-3 (else {RATE:g})"
    )
    parser.add_argument("--limit", type=int, default=300, help="test images a task looks at")
    parser.add_argument("--pool", type=int, default=50, help="images that retrieval chooses among")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument(
        "--loaders",
        type=int,
        help="processes that encode the samples of one repair (default: 4 beside a GPU)",
    )
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="seconds to give up unfinished cells after"
    )
    parser.add_argument("--keep", action="store_true", help="leave repaired models where they are")
    parser.add_argument("--text", type=Path, help="a text file, or a folder of them, for perplexity")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smoke", action="store_true", help="one small cell of each kind")
    options = parser.parse_args()
    stop_at = time.monotonic() + options.stop_after
    if options.smoke:
        options.methods, options.patterns, options.seeds = "wanda", "2:4", "0"
        options.repairs, options.tasks = f"{NONE},both", "gqa,caption"
        options.calibration_samples, options.samples, options.limit, options.pool = 8, 64, 8, 4
    study = Study(
        model=options.model,
        folder=options.output,
        calibration_samples=options.calibration_samples,
        samples=options.samples,
        batch_size=options.batch_size,
        evaluation_batch=options.evaluation_batch,
        limit=options.limit,
        pool=options.pool,
        tasks=tuple(options.tasks.split(",")),
        device=options.device,
        rates={},
        text=options.text,
        loaders=options.loaders,
        keep=options.keep,
    )
    repairs = [" ".join(text.split()) for text in options.repairs.split(",")]
    methods = [" ".join(text.split()) for text in options.methods.split(",") if text.strip()]
    patterns, seeds = options.patterns.split(","), [int(text) for text in options.seeds.split(",")]
    wanted = [(method, pattern, repair) for pattern in patterns for method in methods for repair in repairs]
    if options.cells:
        wanted = read_cells(options.cells)
    named = [step.split()[0] for _, _, repair in wanted for step in repair.split(THEN)]
    if unknown := [name for name in named if name not in (NONE, *REPAIRS)]:
        parser.error(f"there is no repair '{unknown[0]}': choose from {NONE}, {', '.join(REPAIRS)}")
    cells = [Cell(method, pattern, seed, repair) for seed in seeds for method, pattern, repair in wanted]
    for cell in cells:
        study.identity(cell)  # what is wrong with a recipe is known at once
    if options.rates:
        rates = [float(text) for text in options.rates.split(",")]
        study = replace(study, rates=choose_rates(study, repairs, rates, options.jobs))
    failed = carry_out(study, [DENSE, *cells], options.jobs, stop_at)
    dense = study.read(DENSE)
    if dense is not None:
        name = options.name or study.name
        patterns = list(dict.fromkeys(cell.pattern for cell in cells)) or patterns[:1]
        made = [table(study, cells, pattern, dense) for pattern in patterns]
        text = "\n".join(f"**{one.title}**\n\n{one.markdown()}" for one in made)
        write_text(options.output / f"{name}.md", text)
        write_text(options.output / f"{name}.csv", csv_of(study, cells, dense))
        print(text)
    if failed:
        sys.exit(f"{failed} cells failed: their errors are above; the same command tries them again.")


if __name__ == "__main__":
    main()
