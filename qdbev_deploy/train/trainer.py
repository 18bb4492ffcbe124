"""The training loop: one step after another, each a function of its number alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qdbev_deploy.calibration.recipe import PARTS, Part
from qdbev_deploy.contract import VariantSpec
from qdbev_deploy.errors import QdbevError
from qdbev_deploy.model import BEVFormer
from qdbev_deploy.model.layers import PackedAttention
from qdbev_deploy.quant import Recipe
from qdbev_deploy.quant.quantise import enable_parts, observing, set_scales
from qdbev_deploy.quant.quantizers import ActivationQuantizer, WeightQuantizer
from qdbev_deploy.train.config import TrainConfig
from qdbev_deploy.train.dataset import QueueDataset, TrainFrame, TrainSample
from qdbev_deploy.train.dense import BevHead, ImageHead
from qdbev_deploy.train.distill import distillation_loss
from qdbev_deploy.train.groups import QueryGroups
from qdbev_deploy.train.guard import (
    LOOK_EVERY_STEPS,
    ScaleGuard,
    check_activations,
    check_gradients,
    check_loss,
    check_parameters,
    looking_at_activations,
)
from qdbev_deploy.train.losses import detection_loss
from qdbev_deploy.train.matching import Targets
from qdbev_deploy.train.processes import World
from qdbev_deploy.train.run_folder import RunFolder

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with the same parts quantised."""

    name: str
    first_step: int
    parts: frozenset[Part]
    distills: bool


def phases(config: TrainConfig, recipe: Recipe | None) -> list[Phase]:
    """The run's stretches. A float run has one; a quantised one follows the recipe's schedule.

    One that would not get to all parts, or to the distillation that is asked for, is refused.
    """
    if recipe is None:
        return [Phase("float", 0, frozenset(), False)]
    everything = frozenset(PARTS)
    shares = dict(recipe.schedule)
    if config.distillation is None:
        shares["distill"] = 0.0
    if not config.progressive:
        shares = {
            **dict.fromkeys(PARTS, 0.0),
            "decoder": sum(shares[part] for part in PARTS),
            "distill": shares["distill"],
        }
    result, begun, total = [], 0.0, sum(shares.values())
    if not math.isfinite(total):
        raise QdbevError(
            f"the schedule {dict(recipe.schedule)} of recipe '{recipe.name}'",
            "finite shares of the steps",
            "correct the recipe's schedule",
        )
    for index, part in enumerate(PARTS):
        if shares[part] > 0:
            first = round(config.steps * begun / total)
            result.append(Phase(part, first, frozenset(PARTS[: index + 1]), False))
        begun += shares[part]
    if shares["distill"] > 0:
        result.append(Phase("distill", round(config.steps * begun / total), everything, True))
    _require_whole(result, config, recipe)
    return result


def _require_whole(stretches: list[Phase], config: TrainConfig, recipe: Recipe) -> None:
    last = stretches[-1]
    if config.distillation is not None and not last.distills:
        raise QdbevError(
            f"distillation by a recipe '{recipe.name}' whose schedule has no share for it",
            "a share of the steps for distill",
            "correct the recipe's schedule, or leave out --distill",
        )
    missing = [part for part in PARTS if part not in last.parts]
    if missing:
        raise QdbevError(
            f"a recipe '{recipe.name}' whose schedule never quantises the {missing[0]}",
            "a share of the steps for each part, or at least for the last",
            "correct the recipe's schedule",
        )
    if last.first_step >= config.steps:
        raise QdbevError(
            f"{config.steps} steps, of which the schedule of recipe '{recipe.name}' leaves none for {last.name}",
            "steps for every part that is to join",
            "pass more --steps",
        )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to a thousandth."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def set_dropout(model: nn.Module, probability: float) -> None:
    """Another dropout than the variant's, for this run alone."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(module, PackedAttention):
            module.dropout = probability


def _parameter_groups(model: BEVFormer, helpers: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by how fast they move; `factor` scales the learning rate."""
    scales = {
        id(module.log_scale) for module in model.modules() if isinstance(module, (ActivationQuantizer, WeightQuantizer))
    }
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "rest": [], "scales": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "scales" if id(parameter) in scales else "backbone" if name.startswith("img_backbone") else "rest"
            groups[kind].append(parameter)
    groups["rest"] += helpers.parameters()
    factors = {"backbone": config.backbone_lr_factor, "rest": 1.0, "scales": config.scale_lr_factor}
    return [
        {
            "params": parameters,
            "factor": factors[kind],
            "weight_decay": 0.0 if kind == "scales" else config.weight_decay,
        }
        for kind, parameters in groups.items()
        if parameters
    ]


class Helpers(nn.Module):
    """What learns beside the model and is left behind with the run."""

    def __init__(self, spec: VariantSpec, config: TrainConfig) -> None:
        super().__init__()
        self.bev = BevHead(spec) if config.dense_weight > 0 else None
        self.image = ImageHead(spec) if config.dense_weight > 0 else None
        self.groups = QueryGroups(spec, config.query_groups - 1)

    def dense_losses(
        self, features: list[Tensor], bev: Tensor, targets: Targets, code_weights: Tensor, lidar2img: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        if self.bev is not None and self.image is not None:
            yield "dense_bev", self.bev.loss(bev, targets, code_weights)
            yield "dense_image", self.image.loss(features[0], targets, lidar2img)


class Trainer:
    """A model, its data and its run folder. `run` trains to the end, from wherever the folder's state is."""

    def __init__(
        self,
        model: BEVFormer,
        data: QueueDataset,
        config: TrainConfig,
        folder: RunFolder,
        world: World,
        *,
        recipe: Recipe | None = None,
        teacher: BEVFormer | None = None,
    ) -> None:
        self.model, self.data, self.config, self.folder, self.world = (
            model.to(world.device),
            data,
            config,
            folder,
            world,
        )
        self.spec = model.spec
        self.teacher = teacher.to(world.device).eval().requires_grad_(False) if teacher else None
        self.phases = phases(config, recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.helpers = Helpers(self.spec, config).to(world.device)
        if config.dropout is not None:
            set_dropout(self.model, config.dropout)
        # Convolutions on a CPU, and in half precision on a GPU, are up to twice as fast with channels last.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, self.helpers, config), lr=config.lr, fused=True)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")
        self.scales = ScaleGuard()
        self.step = 0
        self.last_row: dict[str, float] = {}  # what the log says of the last step

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "helpers": self.helpers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "scales": self.scales.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved, with the parts quantised that were."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.helpers.load_state_dict(state["helpers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.scales.restore(state["scales"])
        enable_parts(self.model, set(self._parts_before(self.step)))

    def begin_from(self, state: dict[str, Any]) -> None:
        """Take over what learned beside another float run's model, and begin a schedule of our own."""
        try:
            self.helpers.load_state_dict(state["helpers"])
        except RuntimeError as error:
            raise QdbevError(
                "a run to begin from with other heads or groups of queries beside the model",
                "the same --query-groups, and --dense-weight 0 in both or in none",
                "pass them, or begin from the run's model.pt, which leaves its helpers behind",
            ) from error

    # -- one step ------------------------------------------------------------------------------------------------------

    def _phase(self, step: int) -> Phase:
        return [phase for phase in self.phases if phase.first_step <= step][-1]

    def _parts_before(self, step: int) -> frozenset[Part]:
        """The parts that were quantised in the step before this one."""
        return self._phase(step - 1).parts if step > 0 else frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether every part that is to be quantised has joined."""
        return self._parts_before(self.step) >= self.phases[-1].parts

    def _autocast(self) -> Any:
        dtype = _DTYPES.get(self.config.precision)
        return torch.autocast(self.world.device.type, dtype=dtype) if dtype else nullcontext()

    def _inputs(self, frame: TrainFrame, bev: Tensor) -> tuple[Tensor, ...]:
        device = self.world.device
        use_prev = torch.full((1,), float(frame.has_past), device=device)
        return bev, use_prev, frame.can_bus.to(device), frame.lidar2img.to(device)

    def _train_mode(self, step: int) -> None:
        self.model.train()
        if self.config.freeze_norm_from is not None and step >= self.config.freeze_norm_from:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    @torch.no_grad()
    def _past(self, model: BEVFormer, frames: tuple[TrainFrame, ...]) -> Tensor:
        """The BEV before the queue's last frame, computed as the car would: in evaluation mode."""
        bev = torch.zeros(self.spec.bev_cells, 1, self.spec.embed_dim, device=self.world.device)
        modes = {module: module.training for module in model.modules()}
        model.eval()
        for frame in frames[:-1]:
            features = model.extract_features(frame.images.to(self.world.device))
            bev = model.pts_bbox_head.bev(features, *self._inputs(frame, bev))
        for module, training in modes.items():
            module.training = training
        return bev

    def _loss(self, sample: TrainSample, phase: Phase) -> tuple[Tensor, dict[str, float]]:
        frame, device = sample.frames[-1], self.world.device
        targets = Targets(sample.targets.codes.to(device), sample.targets.labels.to(device))
        with self._autocast():
            past = self._past(self.model, sample.frames)
            images, inputs = frame.images.to(device), self._inputs(frame, past)
            features = self.model.extract_features(images)
            head = self.model.pts_bbox_head
            bev = head.bev(features, *inputs)
            classes, coords = self.helpers.groups.decode(head, bev)
            loss, parts = detection_loss(classes.float(), coords.float(), targets, head.code_weights)
            for name, dense in self.helpers.dense_losses(features, bev, targets, head.code_weights, inputs[-1]):
                parts[name] = float(dense.detach())
                loss = loss + self.config.dense_weight * dense
            if phase.distills and self.teacher is not None and self.config.distillation is not None:
                # The teacher computes in the student's own precision, so that they differ by quantisation alone.
                with torch.no_grad():
                    teacher_inputs = self._inputs(frame, self._past(self.teacher, sample.frames))
                    theirs = self.teacher.extract_features(images)
                    teacher_bev = self.teacher.pts_bbox_head.bev(theirs, *teacher_inputs)
                distilled = distillation_loss(
                    self.config.distillation,
                    self.spec,
                    (theirs, teacher_bev),
                    (features, bev),
                    inputs[-1],
                )
                parts["distill"] = float(distilled.detach())
                loss = loss + distilled
        return loss, parts

    def _parameters(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]

    def gradients(self, step: int, *, look: bool = False) -> dict[str, float]:
        """Compute and average the gradients of one step; returns what the log says of it.

        `look`: whether at what enters quantisers as well.
        """
        phase, config = self._phase(step), self.config
        totals: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for index in range(config.batch):
            number = (step * self.world.size + self.world.rank) * config.batch + index
            sample = self.data.sample(number)
            # Dropout depends on the sample's number alone: a resumed run draws what the first one would have drawn,
            # and several processes what one would have.
            torch.manual_seed(config.seed * 1_000_003 + number)
            repeat = partial(self._loss, sample, phase)
            with looking_at_activations(self.model if look else None) as seen:
                loss, parts = repeat()
            check_loss(loss, step, self.model, repeat)
            check_activations(seen, step, self.model, repeat)
            self.scaler.scale(loss / config.batch).backward()
            for name, value in {"loss": float(loss.detach()), **parts}.items():
                totals[name] = totals.get(name, 0.0) + value / config.batch
        self.world.average_gradients(self._parameters())
        self.world.average_statistics(self.model)
        return totals

    def _update(self, step: int) -> float:
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(list(self._parameters()), self.config.clip_norm)
        if not self.scaler.is_enabled():  # in half precision the scaler skips such a step and lowers its factor
            check_gradients(self.model, norm, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        check_parameters(self.model, step)
        self.scales.check(self.model, step)
        return float(norm)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _enter(self, phase: Phase, previous: frozenset[Part]) -> None:
        """Enable a phase's parts; those that are new get their activation scales from the data first."""
        if phase.parts - previous:
            enable_parts(self.model, set(previous))
            self._calibrate(set(phase.parts - previous))
        enable_parts(self.model, set(phase.parts))
        self.scales.begin(self.model)

    @torch.no_grad()
    def _calibrate(self, parts: set[Part]) -> None:
        self.model.eval()
        with observing(self.model, parts) as histograms:
            seen, number = 0, 0
            while seen < self.config.calibration_frames:
                frames = self.data.sample(number).frames
                bev = self._past(self.model, frames)
                self.model.step(frames[-1].images.to(self.world.device), *self._inputs(frames[-1], bev))
                seen, number = seen + len(frames), number + 1
        set_scales(self.model, histograms, "mse")

    def run(
        self,
        *,
        save_every: int = 200,
        stop_at: int | None = None,
        on_step: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        """Train to the last step, or to `stop_at`. Saves its state every `save_every` steps and at the end."""
        end = min(self.config.steps, stop_at or self.config.steps)
        saved = self.folder.load_state()
        if saved is not None:
            self.restore(saved)
        self.world.share_state(self.model)
        if self.world.is_first:
            self.folder.sweep()
            self.folder.open_logs(self.step)
            self.last_row = self.folder.last_row()
        try:
            while self.step < end:
                saves = (self.step + 1) % save_every == 0 or self.step + 1 == end
                self._run_step(look=saves or self.step % LOOK_EVERY_STEPS == 0)
                if on_step is not None:
                    on_step(self.step, self.last_row)
                if self.world.is_first and saves:
                    self.folder.save_state(self.state())
        finally:
            if self.world.is_first:
                self.folder.close_logs()

    def _run_step(self, *, look: bool) -> None:
        step = self.step
        phase = self._phase(step)
        if phase.parts and phase.first_step == step:
            self._enter(phase, self._parts_before(step))
            self.world.share_state(self.model)
        self._train_mode(step)
        started = time.perf_counter()
        row = self.gradients(step, look=look)
        row["gradient_norm"] = self._update(step)
        row["frames_per_s"] = self.config.batch * self.world.size * self.config.queue / (time.perf_counter() - started)
        row["lr"] = learning_rate(self.config, step)
        self.last_row = row
        if self.world.is_first:
            self.folder.log(step, {**row, "phase": phase.name})
        self.step += 1
