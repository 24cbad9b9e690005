"""ressa makes a vision-language model (VLM) sparse, repairs what that broke, and proves both.

The names below are all that most programs need (docs/python.md); what each costs is imported when it is first used.
"""

from typing import TYPE_CHECKING

from ressa.doors import door
from ressa.registration import register

if TYPE_CHECKING:
    from ressa.anatomy import find_anatomy
    from ressa.checkpoint import Manifest, Vlm, load, measure, save
    from ressa.data import Sample, batches
    from ressa.errors import RunError, UsageError
    from ressa.evaluation import evaluate
    from ressa.pruning import prune
    from ressa.repairing import RepairConfig, SparseLoraConfig, repair
else:
    __getattr__, __dir__ = door(
        __name__,
        anatomy="find_anatomy",
        checkpoint="Manifest Vlm load measure save",
        data="Sample batches",
        errors="RunError UsageError",
        evaluation="evaluate",
        pruning="prune",
        repairing="RepairConfig SparseLoraConfig repair",
    )

__version__ = "0.1.0"

__all__ = [
    "Manifest",
    "RepairConfig",
    "RunError",
    "Sample",
    "SparseLoraConfig",
    "UsageError",
    "Vlm",
    "__version__",
    "batches",
    "evaluate",
    "find_anatomy",
    "load",
    "measure",
    "prune",
    "repair",
    "save",
]

register()
