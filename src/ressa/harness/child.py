"""`python -m ressa.harness.child REQUEST RESULT`: lmms-eval in the process that it has to itself.

REQUEST is what `running.Asked` holds, as JSON; RESULT gets lmms-eval's results, or the sentence of what was wrong.
lmms-eval changes much of a process (loggers, locks, SSL), and its environment need not be ressa's.
"""

import json
import os
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ressa.errors import RunError, UsageError
from ressa.files import write_json


def score(asked: dict[str, Any]) -> dict[str, Any]:
    """lmms-eval's results, what ressa counted, and versions. Raises UsageError for a task that is not there."""
    from lmms_eval.evaluator import simple_evaluate

    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import measure
    from ressa.data.images import limit_pixels
    from ressa.fast_dtype import in_fast_dtype
    from ressa.harness.lmms_model import RessaModel
    from ressa.provenance import versions

    limit_pixels(asked["max_pixels"])
    tasks = _task_manager(asked["tasks"], asked["include_path"])
    own = {name: asked[name] for name in ("batch_size", "device", "dtype", "kept")}
    model = RessaModel(asked["model"], **own)
    with in_fast_dtype(model.model, device=model.device, asked=asked["dtype"]):
        found = simple_evaluate(
            model,
            tasks=asked["tasks"],
            task_manager=tasks,
            limit=asked["limit"],
            log_samples=False,
            batch_size=asked["batch_size"],
            random_seed=asked["seed"],
            numpy_random_seed=asked["seed"],
            torch_random_seed=asked["seed"],
            fewshot_random_seed=asked["seed"],
            verbosity="WARNING",
        )
    return {
        "results": found["results"],
        "samples": {task: counts["effective"] for task, counts in found["n-samples"].items()},
        "sparsity": measure(model.vlm.model, find_anatomy(model.vlm.model)),
        "versions": {**versions(), "lmms-eval": version("lmms_eval")},
    }


def _task_manager(names: list[str], include_path: str | None) -> Any:
    """What finds the tasks: in `include_path` alone where all are there, for reading lmms-eval's thousands takes long.

    Raises UsageError for one that is nowhere.
    """
    from lmms_eval.tasks import TaskManager

    for defaults in (False, True) if include_path else (True,):
        manager = TaskManager("WARNING", include_path=include_path, include_defaults=defaults)
        absent = [name for name in names if not manager.match_tasks([name])]
        if not absent:
            return manager
    raise UsageError(f"lmms-eval has no task {absent[0]}: `lmms-eval tasks list` names those it has.")


def _end_with_the_parent() -> None:
    """End this process when the one that asked is no more, even if it was killed: its work would be done twice."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns when the pipe ends
    os._exit(130)


def main(request: str, result: str) -> int:
    """Returns the exit code; whatever was wrong and can be said in a sentence is in the result."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        told = score(json.loads(Path(request).read_text(encoding="utf-8")))
    except UsageError as error:
        told = {"wrong": error.sentence, "usage": True}
    except RunError as error:
        told = {"wrong": str(error), "usage": False}
    except KeyboardInterrupt:
        return 130
    write_json(result, json.loads(json.dumps(told, default=_plain)))
    return 0


def _plain(value: Any) -> Any:
    """A NumPy number as Python's own; anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
