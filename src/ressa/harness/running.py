"""lmms-eval as a child process: what it is asked, how it is watched, and its numbers as ressa has scores."""

import importlib.util
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ressa.errors import RunError, UsageError
from ressa.files import read_json, write_json

LINES = 5  # of what it said last, where it fails
DIGITS = 4  # of a score: lmms-eval's tasks differ in whether they are of 1, of 100 or of 2,800


def find_interpreter(python: Path | None) -> str:
    """The interpreter whose environment has lmms-eval and ressa. Raises UsageError for none."""
    if python is None:
        if importlib.util.find_spec("lmms_eval") is None:
            raise UsageError(
                "lmms-eval is not installed here: `pip install 'ressa[lmms-eval]'`, or name the interpreter of an "
                "environment that has ressa and lmms-eval with --harness-python."
            )
        return sys.executable
    try:
        subprocess.run([python, "-c", "import lmms_eval, ressa"], check=True, capture_output=True, text=True)
    except OSError as error:
        raise UsageError(
            f"{python} cannot be started ({error.strerror}): name a Python interpreter."
        ) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(
            f"{python} does not have both ressa and lmms-eval ({last}): install 'ressa[lmms-eval]' there."
        ) from None
    return str(python)


def run_lmms_eval(
    model: str,
    tasks: Sequence[str],
    *,
    python: Path | None = None,
    include_path: Path | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    max_pixels: int,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Have lmms-eval score a model; the result as `ressa evaluate` has it, but without an average.

    tasks: lmms-eval's own, or those in the YAML files of `include_path`. limit: of the documents of each. python: the
    interpreter that runs it, by default this one. kept: a file in which the model's answers are kept meanwhile.
    Raises UsageError for an environment, a task or a model that is not there, RunError where lmms-eval fails.
    """
    asked = {
        "model": model,
        "tasks": list(tasks),
        "include_path": None if include_path is None else str(include_path.resolve()),
        "limit": limit,
        "batch_size": batch_size,
        "device": device,
        "dtype": dtype,
        "seed": seed,
        "max_pixels": max_pixels,
        "kept": None if kept is None else str(kept),
    }
    interpreter = find_interpreter(python)
    with tempfile.TemporaryDirectory(prefix="ressa-harness-") as folder:
        request, result, said = (Path(folder) / name for name in ("request.json", "result.json", "said.txt"))
        write_json(request, asked)
        command = [interpreter, "-m", "ressa.harness.child", str(request), str(result)]
        with said.open("w+b") as log:
            # The child ends when this pipe does, however this process ends.
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log)
            try:
                status = child.wait()
            finally:
                child.terminate()  # where this process is interrupted; no harm to one that has ended
                child.wait()
        if status == 130:
            raise KeyboardInterrupt
        found = read_json(result)
        if status or found is None:
            raise RunError(_failure(status, said))
    if "wrong" in found:
        raise (UsageError if found["usage"] else RunError)(found["wrong"])
    return {
        "tasks": scores_of(found["results"], found["samples"]),
        "average": None,
        "sparsity": found["sparsity"],
        "harness": {"name": "lmms-eval", "version": found["versions"]["lmms-eval"]},
        "versions": found["versions"],
    }


def scores_of(results: dict[str, dict[str, Any]], samples: dict[str, int]) -> dict[str, dict[str, Any]]:
    """lmms-eval's results as scores: task, or task/metric where it has several → score (as it is there), metric,
    its standard error where it is known, and n (documents)."""
    scores = {}
    for task, values in results.items():
        found = {
            name: value
            for name, value in values.items()
            if "," in name
            and "_stderr" not in name
            and isinstance(value, int | float)
            and math.isfinite(value)
        }
        for name, value in found.items():
            metric, _, filtered = name.partition(",")
            error = values.get(f"{metric}_stderr,{filtered}")
            label = metric if filtered in ("none", "") else f"{metric}, {filtered}"
            scores[f"{task}/{label}" if len(found) > 1 else task] = {
                "score": value,
                "metric": label,
                **({"stderr": error} if isinstance(error, int | float) and math.isfinite(error) else {}),
                "n": samples.get(task, 0),
                "digits": DIGITS,
            }
    return scores


def _failure(status: int, said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LINES:]
    last = " ".join(" ".join(lines).split()) or "nothing more is known"
    return f"lmms-eval ended with exit code {status} (it said last: {last}): its own messages stand above."
