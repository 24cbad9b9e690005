"""The command that reads a file of predictions."""

from pathlib import Path
from typing import Annotated

import typer

from ressa.cli.app import command
from ressa.cli.options import JsonTarget
from ressa.cli.showing import prepare, show
from ressa.task_names import MetricForm, ProtocolName


@command
def score(
    predictions: Annotated[
        Path, typer.Argument(help="A file that `ressa evaluate` wrote, or a JSON list of results.")
    ],
    data: Annotated[
        str | None, typer.Option("--data", help="The dataset folder; by default that of the evaluation.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Which of the tasks in it, separated by commas.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="The split; by default that of the evaluation.")
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option("--protocol", help="Whose metrics, where a task has several."),
    ] = None,
    metric: Annotated[
        MetricForm | None,
        typer.Option("--metric", help="Whose form of a metric, where a task has several."),
    ] = None,
    caption_metrics: Annotated[
        str | None,
        typer.Option("--caption-metrics", help="Beside CIDEr-D, separated by commas: bleu, meteor, spice."),
    ] = None,
    json_target: JsonTarget = None,
) -> None:
    """Score saved predictions again.

    By another form of a metric, or by more of them; no model is needed. Results in the format of a data set's own
    tool are scored, too: name the task, the data and the split.

    \b
    Example:
      ressa score scores.predictions.jsonl --metric lavis
      ressa score vqa_results.json --tasks vqa --data ./coco --split val
    """
    prepare(json_target)
    from ressa.commands.score import score_predictions

    outcome = score_predictions(
        predictions,
        data=data,
        tasks=tasks,
        split=split,
        protocol=protocol,
        metric=metric,
        caption_metrics=caption_metrics,
    )
    show([outcome], json_target)
