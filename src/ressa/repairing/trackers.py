"""Those whom the Trainer tells how training goes: whether they would listen, asked before any work, and where they
write."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ressa.errors import UsageError
from ressa.repairing.config import RepairConfig

UNREACHED = ("offline", "disabled", "dryrun")  # WANDB_MODE: nothing goes over the network


def check_trackers(names: Sequence[str]) -> None:
    """Raises UsageError where wandb does not know who asks; in a terminal it asks for the key.

    The Trainer would find that out only when it begins, hours after reconstruction has.
    """
    if "wandb" not in names or os.environ.get("WANDB_MODE") in UNREACHED:
        return
    import wandb

    try:
        known = wandb.login() if sys.stdin.isatty() else wandb.login(prompt=False)
    except Exception as error:  # no network, a key that is refused
        raise UsageError(
            f"wandb cannot be told ({' '.join(str(error).split())[:200].rstrip('.')}): see to that, or set "
            "WANDB_MODE=offline."
        ) from error
    if not known:
        raise UsageError(
            "wandb does not know who you are: `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline."
        )


@contextmanager
def reporting(config: RepairConfig) -> Iterator[None]:
    """Around a Trainer, from before it is made: TensorBoard's files go where the config says, unless the environment
    says where, and wandb's run ends with the training."""
    place = "TENSORBOARD_LOGGING_DIR"
    given = os.environ.get(place)
    if "tensorboard" in config.report_to and given is None:
        os.environ[place] = str(config.log_dir)
    failed = 1
    try:
        yield
        failed = 0
    finally:
        if given is None:
            os.environ.pop(place, None)
        if "wandb" in config.report_to:
            import wandb

            if wandb.run is not None:
                wandb.finish(exit_code=failed)
