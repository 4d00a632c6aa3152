"""One fine-tuning run: locate the parameters, ask the policy, train, average with the start, select on validation.

Training starts from the solved head (LP-FT). What the policy does not train is bit-identical afterwards, batch-norm
statistics included, and the source given is never touched.

References
----------
Kumar et al., Fine-tuning can distort pretrained features and underperform out-of-distribution, ICLR 2022.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from headstart._base.hashing import fingerprint, fingerprint_tensors
from headstart._base.processes import is_main
from headstart.errors import OptionError
from headstart.extraction.features import FeatureSpec
from headstart.finetuning.batches import BatchProvider, FineTuneBatch, make_provider
from headstart.finetuning.budget import log_plan, plan_budget, range_test
from headstart.finetuning.cache import ActivationStore
from headstart.finetuning.cotuning import cotuning_loss, source_class_relation
from headstart.finetuning.model import FineTuneModel, HeadInit
from headstart.finetuning.parameter_groups import (
    changed_parameters,
    groups_of,
    l2sp_penalty,
    locate_parameters,
    lowest_trainable,
    select_weights,
    snapshot,
)
from headstart.policies.base import Policy
from headstart.sources.base import Source
from headstart.training.augment import Mix
from headstart.training.batches import Samples
from headstart.training.checkpoint import History, ParameterGroup
from headstart.training.config import ResolvedConfig
from headstart.training.loop import train
from headstart.training.losses import loss_for

_STEPS = 240  # without a number of epochs: about this many steps, whatever the size of the data
_RATE = {"full": 3e-4, "last_layers": 1e-3, "gradual": 1e-3, "lora": 2e-3}
_LAYER_NORM_SCALE = 0.1  # networks of layer norms (transformers) are tuned ten times slower than convolutional ones
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
        The weights that validation selected; ``"tuned"`` when there was none.
    scores : mapping
        Validation score of each.
    moved : tuple of str
        Parameters that training has changed.
    held_out_decisions : (n, t) array or None
        Decision values of the selected weights for the held-out items.
    """

    source: Source
    coef: np.ndarray
    intercept: np.ndarray
    history: History
    selected: str
    scores: Mapping[str, float]
    moved: tuple[str, ...]
    held_out_decisions: np.ndarray | None = None


def finetune(
    source: Source,
    features: Sequence[FeatureSpec],
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
    """Train what the policy says, starting from a solved head.

    Parameters
    ----------
    samples : Samples
        The training items.
    targets : (n, t) array
        Theirs.
    score, held_out : optional
        Validation items, and a function from their decision values to a score (higher is better). With them the best of
        start, tuned and their average is kept; without them the last epoch is.
    offset : (t,) array, optional
        Added to decision values in the loss (logit adjustment).
    budget : float, optional
        Seconds.
    store : ActivationStore, optional
        Where the activations of the frozen part are kept; in memory, for this run, when not given.
    average : bool
        Without validation, keep the average of start and tuned, not the tuned weights.

    Raises
    ------
    OptionError
        When the policy trains nothing, or the task cannot be fine-tuned.
    """
    parameter_map = locate_parameters(source, [f.layer for f in features])
    trainable = policy.trainable(parameter_map.parameters, len(parameter_map.unit_ends))
    if not trainable:
        raise OptionError(f"Policy {policy.name!r} trains no parameter of {source.address}.")
    model = FineTuneModel(source, features, start, device=device)
    initial = snapshot(model, trainable)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = policy.adapt(model.network, trainable)
    lowest = lowest_trainable(trainable, parameter_map)
    model.boundary = parameter_map.unit_ends[lowest - 1] if lowest else None
    names = [parameter.name for parameter in adapted]
    provider = make_provider(
        model, parameter_map, lowest, names, samples=samples, held_out=held_out, policy=policy, store=store
    )
    plan = plan_budget(policy, provider, budget, store.choice.speed if store is not None else 0.0)
    provider.fill(plan.views)
    model.bf16 = _uses_bf16(policy, store, device)
    training = TrainingTask(
        model,
        provider,
        _loss_fn(provider, targets, task, policy=policy, offset=offset),
        partial(model.train_above, lowest, parameter_map.module_units),
        snapshot(model, adapted),
        policy,
    )
    validate = partial(training.validate, score) if held_out is not None and score is not None else None
    config = training_config_for(
        policy,
        len(samples),
        budget=plan.budget,
        seed=seed,
        all_from_epoch=max(parameter.start_epoch for parameter in trainable),
        has_layer_norm=any("layernorm" in p.kind for p in parameter_map.parameters),
    )
    groups = groups_of(model, adapted, policy)
    with provider.running():
        training.begin(groups)
        if policy.training.lr == "auto":
            config = dataclasses.replace(config, lr=range_test(groups, training.loss, provider, config=config))
        if is_main():
            log_plan(provider, training.loss, config, f"{source.name}, policy {policy.name}")
        scores = {"start": validate()} if validate else {}
        history = train(
            groups,
            training.loss,
            provider,
            config=config,
            validate_score=validate,
            checkpoint=checkpoint,
            identity=_identity(source, policy, start, targets) if checkpoint is not None else "",
            label=f"{source.name}: fine-tuning",
        )
        model.set_eval()
        policy.merge(model.network)
        moved = changed_parameters(model, initial)
        selected = select_weights(model, initial, validate, scores, average=average)
        decided = provider.decisions() if validate else None
    coef, intercept = model.export_head()
    return FineTuneResult(_as_source(source, model), coef, intercept, history, selected, scores, moved, decided)


def _uses_bf16(policy: Policy, store: ActivationStore | None, device: str) -> bool:
    """Return whether to autocast: where it was asked for, or where the forward pass was measured to gain from it."""
    precision = policy.training.precision
    if precision == "auto":
        return store is not None and store.choice.precision == "bf16" and device.partition(":")[0] != "mps"
    return precision == "bf16"


@dataclass(frozen=True)
class TrainingTask:
    """What is minimised, and how it is validated in between.

    Attributes
    ----------
    train_mode : callable
        Puts the trained part of the model into training mode.
    origin : mapping
        Trained parameters as they were, for the L2-SP penalty.
    """

    model: FineTuneModel
    provider: BatchProvider
    loss_fn: LossFn
    train_mode: Callable[[], None]
    origin: Mapping[str, torch.Tensor]
    policy: Policy

    @property
    def classifier(self) -> str | None:
        """The layer of the source's own classifier, where co-tuning goes on teaching it."""
        return self.model.source.classifier if self.policy.cotuning else None

    def begin(self, groups: Sequence[ParameterGroup]) -> None:
        """Put everything that will be trained into training mode, for measurements before the first step."""
        self.train_mode()
        for group in groups:
            for parameter in group.parameters.values():
                parameter.requires_grad_(True)

    def loss(self, batch: FineTuneBatch, generator: torch.Generator) -> torch.Tensor:
        """Return the policy's loss on a batch of training items."""
        policy = self.policy
        mixing = self.model.mixing(policy.augment.mixup, batch.inputs, len(batch.indices), generator)
        with self.model.capture(self.classifier), mixing as mix:
            value = self.loss_fn(self.model(batch.inputs, batch.activations), batch.indices, mix)
        return value + l2sp_penalty(self.model, self.origin, policy.l2sp) if policy.l2sp else value

    def validate(self, score: Callable[[np.ndarray], float]) -> float:
        """Return the score of the held-out items under the present weights."""
        self.model.set_eval()
        value = score(self.provider.decisions())
        self.train_mode()
        return value


def _loss_fn(
    provider: BatchProvider, targets: np.ndarray, task: str, *, policy: Policy, offset: np.ndarray | None
) -> LossFn:
    """Return the loss of decision values for training items, whose targets are mixed as the items were."""
    device = provider.model.device
    all_targets = torch.from_numpy(np.asarray(targets, np.float32)).to(device)
    shift = None if offset is None else torch.from_numpy(np.asarray(offset, np.float32)).to(device)
    task_loss = loss_for(task, all_targets, smoothing=policy.training.label_smoothing, offset=shift)
    relation = None
    if policy.cotuning:
        with provider.running():
            relation = source_class_relation(provider, all_targets, task)

    def loss(decision: torch.Tensor, indices: np.ndarray, mix: Mix | None) -> torch.Tensor:
        batch_targets = all_targets[torch.from_numpy(indices).to(device)]
        if mix is not None:
            batch_targets = mix(batch_targets)
        value = task_loss(decision, batch_targets)
        if relation is not None:
            value = value + policy.cotuning * cotuning_loss(provider.model, batch_targets, relation)
        return value

    return loss


def training_config_for(
    policy: Policy,
    count: int,
    *,
    budget: float | None,
    seed: int,
    all_from_epoch: int = 0,
    has_layer_norm: bool = False,
) -> ResolvedConfig:
    """Return the policy's training config for so many items: what it leaves open follows from their number.

    Parameters
    ----------
    all_from_epoch : int
        The first epoch in which everything is trained that ever is.
    has_layer_norm : bool
        A network of layer norms takes smaller steps; so does a short run, which has no time to recover from large ones.
    """
    training = policy.training
    batch_size = training.batch_size or int(min(_LARGEST_BATCH, max(4, count // 8)))
    epochs = training.epochs or all_from_epoch + int(np.clip(round(_STEPS * batch_size / max(count, 1)), 5, 40))
    steps = epochs * math.ceil(max(count, 1) / batch_size)
    scale = _LAYER_NORM_SCALE if has_layer_norm else 1.0
    lr = _RATE.get(policy.name, 1e-3) * scale * min(1.0, (steps / _STEPS) ** 0.5)
    if training.lr == "auto":  # where the range test begins
        training = dataclasses.replace(training, lr=None)
    config = dataclasses.replace(training, budget=budget, seed=seed)
    return config.resolve(epochs=epochs, batch_size=batch_size, lr=lr)


def decisions(model: FineTuneModel, samples: Samples, size: int = 64) -> np.ndarray:
    """Return the decision values of all samples, (n, t) float64, from full forward passes."""
    return BatchProvider(model, samples).decisions(held_out=False, size=size)


def _identity(source: Source, policy: Policy, start: HeadInit, targets: np.ndarray) -> str:
    """Return what is trained on what, as a fingerprint: a checkpoint of anything else is not taken up."""
    # these keys are hashed, and so are those of version 0.1
    arrays = {"coef": start.coef, "intercept": start.intercept, "centre": start.mean, "spread": start.std}
    arrays["targets"] = np.asarray(targets)
    return fingerprint([source.fingerprint, policy.name, policy.record(), fingerprint_tensors(arrays)])


def _as_source(source: Source, model: FineTuneModel) -> Source:
    for parameter in model.network.parameters():
        parameter.requires_grad_(False)
    weights = fingerprint([float(p.double().sum()) for p in model.network.parameters()], 6)
    address = f"{source.address.partition('+')[0]}+tuned-{weights}"
    network = model.network.eval().cpu().to(memory_format=torch.contiguous_format)
    return source.with_module(network, address=address)
