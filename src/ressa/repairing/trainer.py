"""`transformers.Trainer` with a teacher: resume, callbacks, accumulation, DDP and FSDP2 are the Trainer's own."""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ressa.errors import RunError
from ressa.misfit import misfit_told
from ressa.repairing.checkpoints import seal
from ressa.repairing.forward import cast_floats
from ressa.repairing.objective import Objective
from ressa.repairing.sharded import gather_state, gather_trained, scatter_state
from ressa.repairing.teacher import Teacher

TRAINABLE_FILE = "model.safetensors"


class RepairTrainer(Trainer):
    """Minimises the weighted sum of an objective's losses, each a mean over the whole step.

    Every micro-batch of every process divides its sums by the step's totals, so that accumulation and data
    parallelism change nothing.

    Args (beside the Trainer's):
        objective: what is learned, and from what.
        teacher: the dense model, where the objective weighs it.
        bf16: run under autocast to bfloat16 (not the Trainer's own, which copies all logits to float32).
        learning_rates: parameter name → learning rate, where it is not the common one.
        schedule: step → share of the learning rate, in place of the arguments' scheduler.
    """

    loss_is_scaled_for_ga = True  # every loss is divided by the totals of the step

    def __init__(
        self,
        *args: Any,
        objective: Objective,
        teacher: Teacher | None = None,
        bf16: bool = False,
        learning_rates: Mapping[str, float] | None = None,
        schedule: Callable[[int], float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # the same, for transformers before loss_is_scaled_for_ga
        self.student = self.network
        self.objective: Objective = objective
        self.teacher = teacher
        self.bf16 = bf16
        self.learning_rates = dict(learning_rates or {})
        self.schedule = schedule
        self._parts: dict[str, Tensor] = {}  # the unweighted losses of the step that is being logged

    @property
    def network(self) -> nn.Module:
        """The network being trained, not wrapped for data parallelism: the student, or its sharded twin."""
        return cast(nn.Module, self.model)

    # -- the loss -----------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The batches of one step and, as a tensor, what of all processes' batches its losses are means over."""
        batches = list(islice(epoch_iterator, num_batches))
        counts = self.objective.counts(batches).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return batches, counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if num_items_in_batch is None:
            num_items_in_batch = self.objective.counts([inputs]).to(self.args.device)
        inputs = cast_floats(inputs, next(self.network.parameters()).dtype)
        with misfit_told():
            parts = self.objective.losses(model, self.network, self.teacher, inputs, num_items_in_batch)
        loss = torch.stack([weight * value for weight, value in parts.values()]).sum()
        for name, (_, value) in parts.items():
            self._parts[name] = self._parts.get(name, 0) + value.detach()
        # DDP averages the gradients of the processes, each of which holds its share of a sum.
        loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the single losses. Raises RunError when the loss is no longer a number."""
        if "loss" in logs:
            if not torch.isfinite(torch.tensor(logs["loss"])):
                raise RunError(
                    f"The loss is not a number any more at step {self.state.global_step}: "
                    "lower the learning rate."
                )
            for name, value in self._parts.items():
                total = self.accelerator.reduce(value, "sum") if self.args.world_size > 1 else value
                logs[name] = total.item()
            self._parts.clear()
        super().log(logs, *args, **kwargs)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """The precision in which `compute_loss` runs."""
        return torch.autocast(self.args.device.type, torch.bfloat16, self.bf16, cache_enabled)

    # -- what is trained ----------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One parameter group for each learning rate."""
        if self.optimizer is None:
            network = self.network if model is None else model
            groups: dict[float, list[nn.Parameter]] = {}
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    rate = self.learning_rates.get(name, self.args.learning_rate)
                    groups.setdefault(rate, []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            options = {**options, "weight_decay": self.args.weight_decay}
            self.optimizer = kind([{"params": group, "lr": lr} for lr, group in groups.items()], **options)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """The Trainer's own, or the schedule that was given."""
        if self.schedule is not None and self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(cast(Any, optimizer or self.optimizer), self.schedule)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer would go through every parameter at every step."""
        return 0

    # -- checkpoints --------------------------------------------------------------------------------------

    # A sharded run saves what a whole one does, so that either goes on from the other's checkpoints.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.is_fsdp_enabled:
            return super().save_model(output_dir, _internal_call)
        gather_trained(self.student, self.network)
        if self.args.should_save:
            self._save(output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.world_size > 1:  # each process writes the state of its random numbers
            self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A PeftModel saves its adapters; of any other network the trained parameters are enough."""
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.student, PeftModel):
            # Left to choose, PEFT would ask the hub whether the embeddings were resized.
            self.student.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state_dict)
            return
        trained = {name: p.data for name, p in self.student.named_parameters() if p.requires_grad}
        safetensors.torch.save_file(trained, folder / TRAINABLE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, FSDPModule):  # what the student had loaded became its shards
            return
        if isinstance(self.student, PeftModel):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = safetensors.torch.load_file(Path(resume_from_checkpoint) / TRAINABLE_FILE)
        for name, parameter in self.student.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(saved[name])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        optimizer, scheduler = cast(Any, self.optimizer), cast(Any, self.lr_scheduler)
        state = gather_state(optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_fsdp_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        optimizer, scheduler = cast(Any, self.optimizer), cast(Any, self.lr_scheduler)
        folder = Path(checkpoint)
        scatter_state(optimizer, torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True))
        scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))
