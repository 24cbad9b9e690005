"""What runs along a text, one sample a row."""

from torch import Tensor

from ressa.errors import UsageError

IGNORED = -100  # the label value that torch's and transformers' cross-entropy leave out

Rows = list[Tensor]


def along(values: Tensor, labels: Tensor) -> Tensor:
    """The positions of a model's outputs (batch, length, ...) that its labels (batch, L) run along: the last ones,
    where an image's stand in front that the text does not mark (GIT). Raises UsageError where there are too few."""
    if len(values) != len(labels) or values.shape[1] < labels.shape[1]:
        raise UsageError(
            f"The model's outputs {tuple(values.shape[:2])} do not run along its labels "
            f"{tuple(labels.shape)}: this family cannot be taught by its words."
        )
    return values[:, values.shape[1] - labels.shape[1] :]


def pad(rows: Rows, value: int, left: bool = False) -> Tensor:
    """Stack rows (L_i, ...) to (B, max L, ...), filling with `value` on one side."""
    length = max(len(row) for row in rows)
    batch = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    for line, row in zip(batch, rows, strict=True):
        if left:
            line[length - len(row) :] = row
        else:
            line[: len(row)] = row
    return batch
