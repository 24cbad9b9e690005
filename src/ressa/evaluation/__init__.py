"""Scores a model on the tasks of a dataset folder, by each task's official protocol."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.evaluation.decoding import Decoding
    from ressa.evaluation.drawing import Drawn, draw
    from ressa.evaluation.fitting import fitted
    from ressa.evaluation.kept import Kept
    from ressa.evaluation.protocols import Settings, settings_of
    from ressa.evaluation.scoring import answer, evaluate, rate, result_of, score
else:
    __getattr__, __dir__ = door(
        __name__,
        decoding="Decoding",
        drawing="Drawn draw",
        fitting="fitted",
        kept="Kept",
        protocols="Settings settings_of",
        scoring="answer evaluate rate result_of score",
    )

__all__ = [
    "Decoding",
    "Drawn",
    "Kept",
    "Settings",
    "answer",
    "draw",
    "evaluate",
    "fitted",
    "rate",
    "result_of",
    "score",
    "settings_of",
]
