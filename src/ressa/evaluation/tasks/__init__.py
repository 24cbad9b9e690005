"""What a model is asked and how its answers are scored: one class a kind of task, and the tasks by name."""

from typing import TYPE_CHECKING

from ressa.doors import door

if TYPE_CHECKING:
    from ressa.evaluation.tasks.base import Asking, Task
    from ressa.evaluation.tasks.by_name import TASKS_BY_NAME, task_named
else:
    __getattr__, __dir__ = door(__name__, base="Asking Task", by_name="TASKS_BY_NAME task_named")

__all__ = ["TASKS_BY_NAME", "Asking", "Task", "task_named"]
