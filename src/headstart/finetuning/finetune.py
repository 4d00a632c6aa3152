"""One fine-tuning run: place the parameters, ask the policy, train, average with the start, choose on validation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart._base.hashing import fingerprint, fingerprint_tensors
from headstart._base.processes import is_main, local_shard
from headstart.errors import OptionError
from headstart.finetuning.batches import BatchProvider, make_provider
from headstart.finetuning.budget import log_plan, plan_budget, range_test
from headstart.finetuning.cache import ActivationStore
from headstart.finetuning.cotuning import cotuning, relation
from headstart.finetuning.model import FineTuneModel, HeadInit, LayerSpec
from headstart.finetuning.parameter_groups import (
    changed_parameters,
    groups_of,
    l2sp_penalty,
    locate_parameters,
    lowest_moving,
    select_weights,
    snapshot,
)
from headstart.policies.base import Policy
from headstart.training.augment import Mix
from headstart.training.batches import Samples
from headstart.training.checkpoint import History, ParameterGroup
from headstart.training.loop import TrainingConfig, train
from headstart.training.losses import loss_for

_STEPS = 240  # without a number of epochs: about this many steps, whatever the size of the data
_RATE = {"full": 3e-4, "last_layers": 1e-3, "gradual": 1e-3, "lora": 2e-3}
_DELICATE = 0.1  # networks of layer norms (transformers) are tuned ten times slower than convolutional ones
_LARGEST_BATCH = 32

LossFn = Callable[[torch.Tensor, np.ndarray, "Mix | None"], torch.Tensor]


@dataclass(frozen=True)
class FineTuneResult:
    """A tuned source with its head, and how it came about.

    Attributes
    ----------
    source : Source
        A new one: its weights differ, so its fingerprint does.
    coef, intercept : arrays (d, t), (t,)
    selected : "start", "average" or "tuned"
        What validation chose; ``"tuned"`` when nothing was chosen.
    scores : mapping
        Validation score of each.
    moved : tuple of str
        Parameters that training has changed.
    held_out_decisions : (n, t) array or None
        What was kept decides about the held-out items.
    """

    source: Any
    coef: np.ndarray
    intercept: np.ndarray
    history: History
    selected: str
    scores: Mapping[str, float]
    moved: tuple[str, ...]
    held_out_decisions: np.ndarray | None = None


def finetune(
    source: Any,
    features: Sequence[LayerSpec],
    start: HeadInit,
    *,
    samples: Samples,
    targets: np.ndarray,
    task: str,
    policy: Policy,
    score: Callable[[np.ndarray], float] | None = None,
    held_out: Samples | None = None,
    offset: np.ndarray | None = None,
    budget: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    store: ActivationStore | None = None,
    average: bool = False,
) -> FineTuneResult:
    """Train what the policy moves, starting from a solved head.

    Parameters
    ----------
    samples, targets : the training items and their (n, t) targets
    score, held : optional
        Validation items, and a function from their decision values to a score (higher is better). With them the best of
        start, tuned and their average is kept; without them the last epoch is.
    offset : (t,) array, optional
        Added to decision values in the loss (logit adjustment).
    budget : seconds, optional
    store : Keep, optional
        Where what the frozen part gives is kept; in memory, for this run, when not given.
    average : bool
        Without validation, keep the average of start and tuned, not the tuned weights.

    Raises
    ------
    OptionError
        When the policy moves nothing, or the task cannot be fine-tuned.
    """
    places = locate_parameters(source, [f.layer for f in features])
    trainable = policy.trainable(places.parameters, len(places.ends))
    if not trainable:
        raise OptionError(f"Policy {policy.name!r} moves no parameter of {source.address}.")
    model = FineTuneModel(source, features, start, device=device)
    begin = snapshot(model, trainable)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        working = policy.adapt(model.network, trainable)
    lowest = lowest_moving(trainable, places)
    model.boundary = places.ends[lowest - 1] if lowest else None
    names = [move.name for move in working]
    feed = make_provider(model, places, lowest, names, samples=samples, held_out=held_out, policy=policy, store=store)
    allowed = plan_budget(policy, feed, budget, store.choice.speed if store is not None else 0.0)
    feed.fill(allowed.views)
    model.bf16 = _in_bf16(policy, store, device)
    goal = _goal(feed, targets, task, policy=policy, offset=offset)
    training = partial(model.train_above, lowest, places.modules)
    course = TrainingTask(model, feed, goal, training, snapshot(model, working), policy)
    watched = partial(course.validation, score) if held_out is not None and score is not None else None
    after = max(move.start_epoch for move in trainable)
    delicate = any("layernorm" in p.kind for p in places.parameters)
    schedule = training_config_for(
        policy, len(samples), budget=allowed.budget, seed=seed, all_from_epoch=after, has_layer_norm=delicate
    )
    groups = groups_of(model, working, policy)
    with feed.running():
        course.begun(groups)
        if policy.lr == "auto":
            found = range_test(groups, course.loss, len(samples), config=schedule)
            schedule = dataclasses.replace(schedule, lr=found)
        if is_main():
            log_plan(feed, course.loss, schedule, f"{source.name}, policy {policy.name}")
        scores = {"start": watched()} if watched else {}
        history = train(
            groups,
            course.loss,
            len(samples),
            config=schedule,
            validate_score=watched,
            checkpoint=checkpoint,
            identity=_identity(source, policy, start, targets) if checkpoint is not None else "",
            label=f"{source.name}: fine-tuning",
        )
        model.set_eval()
        policy.merge(model.network)
        moved = changed_parameters(model, begin)
        kept = select_weights(model, begin, watched, scores, average=average)
        decided = feed.decisions() if watched else None
    coef, intercept = model.export_head()
    return FineTuneResult(_as_source(source, model), coef, intercept, history, kept, scores, moved, decided)


def _in_bf16(policy: Policy, keep: ActivationStore | None, device: str) -> bool:
    """Autocast where it was asked for, or where the forward pass was measured to gain from it on this machine."""
    if policy.precision == "auto":
        return keep is not None and keep.choice.precision == "bf16" and device.partition(":")[0] != "mps"
    return policy.precision == "bf16"


@dataclass(frozen=True)
class TrainingTask:
    """What is minimised, and how it is validated in between."""

    model: FineTuneModel
    feed: BatchProvider
    goal: LossFn
    training: Callable[[], None]
    origin: Mapping[str, torch.Tensor]
    policy: Policy

    @property
    def classifier(self) -> str | None:
        """The source's own, where it is taught on."""
        return self.model.source.classifier if self.policy.cotuning else None

    def begun(self, groups: Sequence[ParameterGroup]) -> None:
        """Everything that will move does, in training mode."""
        self.training()
        for group in groups:
            for parameter in group.parameters.values():
                parameter.requires_grad_(True)

    def loss(self, indices: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """The policy's loss on some of the training items."""
        batch, fed = self.feed.batch(indices, generator)
        indices = local_shard(indices)
        mixing = self.model.mixing(self.policy.mixup, batch, len(indices), generator)
        with self.model.capture(self.classifier), mixing as mix:
            value = self.goal(self.model(batch, fed), indices, mix)
        return value + l2sp_penalty(self.model, self.origin, self.policy.l2sp) if self.policy.l2sp else value

    def validation(self, score: Callable[[np.ndarray], float]) -> float:
        """The score of the held-out items as things are."""
        self.model.set_eval()
        value = score(self.feed.decisions())
        self.training()
        return value


def _goal(feed: BatchProvider, targets: np.ndarray, task: str, *, policy: Policy, offset: np.ndarray | None) -> LossFn:
    """The loss of decisions about some of the training items, whose targets are mixed as they were."""
    device = feed.model.device
    wanted = torch.from_numpy(np.asarray(targets, np.float32)).to(device)
    shift = None if offset is None else torch.from_numpy(np.asarray(offset, np.float32)).to(device)
    measure = loss_for(task, wanted, smoothing=policy.label_smoothing, offset=shift)
    related = None
    if policy.cotuning:
        with feed.running():
            related = relation(feed, wanted, task)

    def goal(decision: torch.Tensor, indices: np.ndarray, mix: Mix | None) -> torch.Tensor:
        some = wanted[torch.from_numpy(indices).to(device)]
        some = some if mix is None else mix(some)
        value = measure(decision, some)
        return value if related is None else value + policy.cotuning * cotuning(feed.model, some, related)

    return goal


def training_config_for(
    policy: Policy,
    count: int,
    *,
    budget: float | None,
    seed: int,
    all_from_epoch: int = 0,
    has_layer_norm: bool = False,
) -> TrainingConfig:
    """The schedule of a policy for so many items: what is not given follows from their number.

    ``all_from_epoch`` is the first epoch in which everything moves that ever does. A network of layer norms takes
    smaller steps,
    and so does a short run, which has no time to recover from large ones.
    """
    batch = policy.batch_size or int(min(_LARGEST_BATCH, max(4, count // 8)))
    epochs = policy.epochs or all_from_epoch + int(np.clip(round(_STEPS * batch / max(count, 1)), 5, 40))
    steps = epochs * math.ceil(max(count, 1) / batch)
    own = _RATE.get(policy.name, 1e-3) * (_DELICATE if has_layer_norm else 1.0) * min(1.0, (steps / _STEPS) ** 0.5)
    return TrainingConfig(
        epochs=epochs,
        batch_size=batch,
        lr=own if policy.lr is None or isinstance(policy.lr, str) else float(policy.lr),
        weight_decay=policy.weight_decay,
        patience=policy.patience,
        ema=policy.ema,
        budget=budget,
        seed=seed,
    )


def decisions(model: FineTuneModel, samples: Samples, size: int = 64) -> np.ndarray:
    """Decision values of all samples, (n, t) float64, from full forward passes."""
    return BatchProvider(model, samples).decisions(held_out=False, size=size)


def _identity(source: Any, policy: Policy, start: HeadInit, targets: np.ndarray) -> str:
    """What is trained on what: a checkpoint of anything else is not taken up."""
    arrays = {**vars(start), "targets": np.asarray(targets)}
    return fingerprint([source.fingerprint, policy.name, vars(policy), fingerprint_tensors(arrays)])


def _as_source(source: Any, model: FineTuneModel) -> Any:
    for parameter in model.network.parameters():
        parameter.requires_grad_(False)
    weights = fingerprint([float(p.double().sum()) for p in model.network.parameters()], 6)
    address = f"{source.address.partition('+')[0]}+tuned-{weights}"
    network = model.network.eval().cpu().to(memory_format=torch.contiguous_format)
    return source.with_module(network, address=address)
