"""Scores a model on the tasks of a dataset folder, by each task's official protocol."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.evaluation.decoding import Decoding
    from ressa.evaluation.drawing import TASKS, Drawn, draw
    from ressa.evaluation.fitting import fitted
    from ressa.evaluation.kept import Kept
    from ressa.evaluation.scoring import evaluate, score
else:
    __getattr__, __dir__ = door(
        __name__,
        decoding="Decoding",
        drawing="TASKS Drawn draw",
        fitting="fitted",
        kept="Kept",
        scoring="evaluate score",
    )

__all__ = ["TASKS", "Decoding", "Drawn", "Kept", "draw", "evaluate", "fitted", "score"]
