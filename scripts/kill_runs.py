"""Kills each command many times, lets it go on, and compares what it makes with an undisturbed run, byte for byte.

    python scripts/kill_runs.py --runs 100 --json kill_runs.json

A trial disturbs a run in one of four ways, drawn with the seed, and starts it again until it ends:

- a SIGKILL at a random moment,
- a SIGKILL at the n-th write (a file opened for writing, a tensor file, a rename, a flush), with half of it done,
- "no space left on device" at the n-th write, with half of it done,
- an input/output error at the n-th write.

After a disturbance the output is absent or whole, and what is said is one sentence. At the end the output is that
of the undisturbed run in every byte but times, nothing lies beside it, and the input is untouched. A first process
imports everything and forks one child for each run, so that a run takes as long as its work.
"""

import argparse
import builtins
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import safetensors.torch
import torch

import ressa.run
import ressa.sweep
from ressa.anatomy import find_anatomy
from ressa.checkpoint import load, write_model
from ressa.cli import main as ressa_main
from ressa.embedded.dataset import write_dataset
from ressa.files import write_json

WAYS = ("killed at a moment", "killed in a write", "no space", "input/output error")
TIMES = {"seconds", "spent"}


@dataclass(frozen=True)
class Command:
    """arguments: of `ressa`, with {model}, {pruned} and {output} for folders. output: the name it writes."""

    name: str
    arguments: str
    output: str = "out"

    def words(self, folder: Path, inputs: dict[str, Path]) -> list[str]:
        return self.arguments.format(output=folder / self.output, **inputs).split()


COMMANDS = (
    Command(
        "prune",
        "prune {model} -o {output} --method sparsegpt --pattern 2:4 --calibration {data} --samples 4 --batch-size 2",
    ),
    Command(
        "repair",
        "repair {pruned} -o {output} --data {data} --samples 16 --batch-size 4 --option reconstruct_samples=4 "
        "--option reconstruct_epochs=1 --option checkpoints=3 --option warmup_steps=1",
    ),
    Command(
        "evaluate",
        "evaluate {model} --json {output} --data {data} --tasks vqa,caption --batch-size 8",
        "scores.json",
    ),
    Command(
        "sweep",
        "sweep {model} -o {output} --figure modality --data {data} --calibration {data} --samples 2 --tasks gqa "
        "--limit 2",
    ),
)


@dataclass
class Faults:
    """What happens at the n-th write of a child; without a way, writes are only counted."""

    way: str | None = None
    number: int = -1
    count: int = 0

    def due(self) -> bool:
        self.count += 1
        return self.way is not None and self.count == self.number

    def strike(self) -> NoReturn:
        if self.way == WAYS[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if self.way == WAYS[2] else errno.EIO
        raise OSError(code, os.strerror(code))

    def install(self) -> None:
        """Stand between this process and its disk."""
        opened, serialize = builtins.open, safetensors.torch.serialize_file

        def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            writes = set(mode) & set("wxa+") and not str(file).startswith(("/dev/", "/proc/"))
            if writes and isinstance(file, str | os.PathLike) and self.due():
                with opened(file, "wb") as half:
                    half.write(b'{"half": ')
                self.strike()
            return opened(file, mode, *args, **options)

        def serialize_(tensors: Any, filename: Any, *args: Any, **options: Any) -> Any:
            if self.due():
                serialize(tensors, filename, *args, **options)
                os.truncate(filename, os.path.getsize(filename) // 2)
                if self.way == WAYS[1]:
                    self.strike()
                code = errno.ENOSPC if self.way == WAYS[2] else errno.EIO
                raise safetensors.SafetensorError(f"I/O error: {os.strerror(code)} (os error {code})")
            return serialize(tensors, filename, *args, **options)

        def before(function: Callable[..., Any]) -> Callable[..., Any]:
            def guarded(*args: Any, **options: Any) -> Any:
                if self.due():
                    self.strike()
                return function(*args, **options)

            return guarded

        builtins.open = io.open = open_  # type: ignore[assignment]
        safetensors.torch.serialize_file = serialize_
        for name in ("rename", "replace", "fsync"):
            setattr(os, name, before(getattr(os, name)))
        torch.save = before(torch.save)


@dataclass
class Ended:
    """How a child ended. status: its exit status, negative for a signal. writes: how many it came to."""

    status: int
    said: str
    seconds: float
    writes: int


def run(
    words: list[str], folder: Path, faults: Faults | None = None, kill_after: float | None = None
) -> Ended:
    """One command line in a child of this process, which may be killed after so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    said, counted = folder.with_suffix(".said"), folder.with_suffix(".count")
    for path in (said, counted):
        path.write_text("")  # a child may be killed before it has said anything
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(words, said, counted, faults or Faults())
    status: int | None = None
    while status is None:
        ended, raw = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(raw)
        elif kill_after is not None and time.monotonic() - started > kill_after:
            os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            time.sleep(0.002)
    writes = int(counted.read_text() or 0)
    result = Ended(status, said.read_text(errors="replace"), time.monotonic() - started, writes)
    for path in (said, counted):
        path.unlink(missing_ok=True)
    return result


def _be_the_command(words: list[str], said: Path, counted: Path, faults: Faults) -> NoReturn:
    write_count = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faults.install()
    status = 70
    try:
        status = ressa_main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(write_count, str(faults.count).encode())
        os._exit(status)


def contents(place: Path) -> dict[str, str]:
    """File → a digest of its bytes without times; empty if there is nothing."""
    if place.is_file():
        return {place.name: _digest(place)}
    paths = sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        data = json.dumps(_without_times(json.loads(data))).encode()
    if path.suffix == ".csv":
        head, *rows = [line.split(",") for line in data.decode().splitlines()]
        kept = [index for index, name in enumerate(head) if name not in TIMES]
        data = json.dumps([[row[index] for index in kept] for row in (head, *rows)]).encode()
    return hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


@dataclass
class Tally:
    """What came of a command's trials."""

    seconds: float
    writes: int
    trials: Counter[str] = field(default_factory=Counter)
    disturbed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def trial(command: Command, tally: Tally, folder: Path, inputs: dict[str, Path], whole: dict[str, str],
          draw: random.Random) -> None:  # fmt: skip
    """Disturb a run once or more, let it end, and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    words = command.words(folder, inputs)
    way, number = draw.choice(WAYS), 0
    tally.trials[way] += 1
    for _ in range(draw.choice((1, 1, 2, 3))):
        if way == WAYS[0]:
            ended = run(words, folder, kill_after=draw.uniform(0, tally.seconds))
        else:
            number = draw.randint(1, tally.writes)
            ended = run(words, folder, Faults(way, number))
        tally.disturbed[way] += ended.status != 0
        where = f"{command.name}, {way} {number or ''}".strip()
        lines = [line for line in ended.said.splitlines() if line.startswith("ressa: ")]
        if ended.status > 0 and (ended.status not in (1, 2) or len(lines) != 1 or "Traceback" in ended.said):
            tally.wrong.append(f"{where}: exit code {ended.status}, {ended.said[-600:]!r}")
        output = folder / command.output
        if output.exists() and command.name != "sweep" and contents(output) != whole:
            tally.wrong.append(f"{where}: a half-written output")
    ended = run(words, folder)
    if ended.status != 0:
        tally.wrong.append(f"{where}: went on with exit code {ended.status}, {ended.said[-600:]!r}")
    elif (made := contents(folder / command.output)) != whole:
        odd = [name for name in whole.keys() | made.keys() if whole.get(name) != made.get(name)]
        tally.wrong.append(f"{where}: another result in {', '.join(odd)}")
    elif left := [path.name for path in folder.iterdir() if path.name != command.output]:
        tally.wrong.append(f"{where}: left {', '.join(left)} behind")


def make_small_model(folder: Path) -> None:
    """The embedded LLaVA with two blocks in each tower, so that a run is short."""
    vlm = load("embedded-llava")
    for tower, config in (
        ("vision", vlm.model.config.vision_config),
        ("language", vlm.model.config.text_config),
    ):
        (chain,) = find_anatomy(vlm.model).chains(tower)
        parent, _, name = chain.blocks[0].name.rpartition(".")[0].rpartition(".")
        module = vlm.model.get_submodule(parent)
        setattr(module, name, getattr(module, name)[:2])
        config.num_hidden_layers = 2
    vlm.folder = None
    folder.mkdir()
    write_model(folder, vlm)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100, help="trials of each command")
    parser.add_argument("--commands", default=",".join(command.name for command in COMMANDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ressa.sweep.SHARES, ressa.sweep.PATTERNS = (50,), ("2:4",)  # seven points instead of 28
    report: dict[str, Any] = {"seed": options.seed, "commands": {}}
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as root:
        inputs = {name: Path(root) / name for name in ("model", "pruned", "data")}
        inputs["data"].mkdir()
        write_dataset(inputs["data"], 0, {"calibration": 4, "train": 8, "test": 4})
        make_small_model(inputs["model"])
        prune = "prune {model} -o {pruned} --calibration {data} --samples 4".format(**inputs)
        made = run(prune.split(), Path(root) / "first")
        assert made.status == 0, made.said
        before = {name: contents(path) for name, path in inputs.items()}
        for command in (each for each in COMMANDS if each.name in options.commands.split(",")):
            draw, folder = random.Random(f"{options.seed} {command.name}"), Path(root) / command.name
            straight = run(command.words(folder, inputs), folder)
            assert straight.status == 0, straight.said
            whole = contents(folder / command.output)
            tally = Tally(straight.seconds, straight.writes)
            for number in range(options.runs):
                trial(command, tally, folder, inputs, whole, draw)
                print(
                    f"\r{command.name}: {number + 1}/{options.runs}, {len(tally.wrong)} wrong",
                    end="",
                    flush=True,
                )
                report["commands"][command.name] = {
                    "trials": dict(tally.trials),
                    "disturbed": dict(tally.disturbed),
                    "writes": tally.writes,
                    "seconds": round(tally.seconds, 1),
                    "wrong": tally.wrong,
                }
                if options.json:
                    write_json(options.json, report)
            print(
                f"; {dict(tally.trials)}; {tally.writes} writes, {tally.seconds:.1f} s undisturbed",
                flush=True,
            )
            print(*tally.wrong, sep="\n", end="\n" if tally.wrong else "")
        touched = [name for name, path in inputs.items() if contents(path) != before[name]]
    print(f"The inputs are {'touched: ' + ', '.join(touched) if touched else 'untouched'}.")
    return int(bool(touched) or any(found["wrong"] for found in report["commands"].values()))


if __name__ == "__main__":
    sys.exit(main())
