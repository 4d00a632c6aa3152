"""One fine-tuning run: place the parameters, ask the policy, train, average with the start, choose on validation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart._checkpoint import put
from headstart._hashing import fingerprint, fingerprint_tensors
from headstart._losses import loss_for
from headstart._samples import Samples
from headstart.errors import OptionError
from headstart.finetuning._network import Feature, Start, Tuned
from headstart.finetuning._places import lowest_moving, place
from headstart.policies.base import Move, Policy
from headstart.training import Group, History, Schedule, train

_STEPS = 240  # without a number of epochs: about this many steps, whatever the size of the data
_RATE = {"full": 3e-4, "last_layers": 1e-3}
_LARGEST_BATCH = 32


@dataclass(frozen=True)
class Outcome:
    """A tuned source with its head, and how it came about.

    Attributes
    ----------
    source : Source
        A new one: its weights differ, so its fingerprint does.
    coef, intercept : arrays (d, t), (t,)
    kept : "start", "average" or "tuned"
        What validation chose; ``"tuned"`` when nothing was chosen.
    scores : mapping
        Validation score of each.
    moved : tuple of str
        Parameters that training has changed.
    """

    source: Any
    coef: np.ndarray
    intercept: np.ndarray
    history: History
    kept: str
    scores: Mapping[str, float]
    moved: tuple[str, ...]


def tune(
    source: Any,
    features: Sequence[Feature],
    start: Start,
    *,
    samples: Samples,
    targets: np.ndarray,
    task: str,
    policy: Policy,
    score: Callable[[np.ndarray], float] | None = None,
    held: Samples | None = None,
    offset: np.ndarray | None = None,
    budget: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
) -> Outcome:
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

    Raises
    ------
    OptionError
        When the policy moves nothing, or the task cannot be fine-tuned.
    """
    _refuse_what_is_not_built(policy)
    places = place(source, [f.layer for f in features])
    moves = policy.moves(places.parameters, len(places.ends))
    if not moves:
        raise OptionError(f"Policy {policy.name!r} moves no parameter of {source.address}.")
    model = Tuned(source, features, start, device=device)
    lowest = lowest_moving(moves, places)
    model.training_from(lowest, places.modules)
    wanted = torch.from_numpy(np.asarray(targets, np.float32)).to(device)
    shift = None if offset is None else torch.from_numpy(np.asarray(offset, np.float32)).to(device)
    measure = loss_for(task, wanted, smoothing=policy.label_smoothing, offset=shift)
    begin = {name: tensor.detach().clone() for name, tensor in _moving(model, moves).items()}

    def loss(indices: np.ndarray, _generator: torch.Generator) -> torch.Tensor:
        value = measure(model(samples.batch(indices)), wanted[torch.from_numpy(indices)])
        return value + _pull(model, begin, policy.l2sp) if policy.l2sp else value

    def validation() -> float:
        assert held is not None and score is not None
        model.training_from(None, places.modules)
        value = score(decisions(model, held))
        model.training_from(lowest, places.modules)
        return value

    watched = validation if held is not None and score is not None else None
    scores = {"start": validation()} if watched else {}
    history = train(
        _groups(model, moves, policy),
        loss,
        len(samples),
        schedule=schedule_for(policy, len(samples), budget=budget, seed=seed),
        validate_with=watched,
        checkpoint=checkpoint,
        identity=_identity(source, policy, start, targets) if checkpoint is not None else "",
        label=f"{source.name}: fine-tuning",
    )
    model.training_from(None, places.modules)
    moved = _moved(model, begin)
    kept = _choose(model, begin, watched, scores)
    coef, intercept = model.solved()
    return Outcome(_as_source(source, model), coef, intercept, history, kept, scores, moved)


def _refuse_what_is_not_built(policy: Policy) -> None:
    """An option that does nothing is worse than one that is refused."""
    asked = {"cache": policy.cache, "views": policy.views, "precision": policy.precision}
    built: dict[str, tuple[object, ...]] = {"cache": (None, False), "views": (None, 1), "precision": ("auto", "fp32")}
    wrong = [f"{name}={value!r}" for name, value in asked.items() if value not in built[name]]
    if wrong:
        raise OptionError(
            f"{', '.join(wrong)}: caching below the frozen boundary, augmented views and bf16 training are not built "
            "yet. Every epoch runs the full forward pass in fp32; leave these fields out."
        )


def schedule_for(policy: Policy, count: int, *, budget: float | None, seed: int) -> Schedule:
    """The schedule of a policy for so many items: what is not given follows from their number."""
    batch = policy.batch_size or int(min(_LARGEST_BATCH, max(4, count // 8)))
    epochs = policy.epochs or int(np.clip(round(_STEPS * batch / max(count, 1)), 5, 40))
    return Schedule(
        epochs=epochs,
        batch_size=batch,
        lr=policy.lr or _RATE.get(policy.name, 5e-4),
        weight_decay=policy.weight_decay,
        patience=policy.patience,
        ema=policy.ema,
        budget=budget,
        seed=seed,
    )


def decisions(model: Tuned, samples: Samples, size: int = 64) -> np.ndarray:
    """Decision values of all samples, (n, t) float64."""
    places = np.arange(len(samples))
    with torch.inference_mode():
        parts = [model(samples.batch(places[i : i + size])).cpu().double().numpy() for i in range(0, len(places), size)]
    return np.concatenate(parts)


def _groups(model: Tuned, moves: Sequence[Move], policy: Policy) -> list[Group]:
    """Parameters of one factor and start together; norms and biases without weight decay; the head last."""
    named = dict(model.network.named_parameters())
    groups: dict[tuple[float, int, bool], dict[str, torch.nn.Parameter]] = {}
    for move in moves:
        parameter = named[move.name]
        groups.setdefault((move.factor, move.from_epoch, parameter.ndim > 1), {})[f"network.{move.name}"] = parameter
    made = [Group(members, factor, decay, epoch) for (factor, epoch, decay), members in groups.items()]
    head = {f"head.{name}": parameter for name, parameter in model.head.named_parameters()}
    return [*made, Group(head, policy.head_factor, weight_decay=False)]


def _moving(model: Tuned, moves: Sequence[Move]) -> dict[str, torch.Tensor]:
    named = dict(model.network.named_parameters())
    head = {f"head.{name}": p for name, p in model.head.named_parameters()}
    return {**{f"network.{move.name}": named[move.name] for move in moves}, **head}


def _moved(model: Tuned, begin: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Parameters of the network that are not what they were; those that no forward pass reaches never move."""
    named = dict(model.named_parameters())
    changed = (name for name, value in begin.items() if not torch.equal(named[name], value))
    return tuple(sorted(name.removeprefix("network.") for name in changed if name.startswith("network.")))


def _pull(model: Tuned, begin: Mapping[str, torch.Tensor], strength: float) -> torch.Tensor:
    named = dict(model.named_parameters())
    parts = [((named[name] - value) ** 2).sum() for name, value in begin.items() if name.startswith("network.")]
    return strength / 2 * torch.stack(parts).sum()


def _choose(
    model: Tuned, begin: Mapping[str, torch.Tensor], validation: Callable[[], float] | None, scores: dict[str, float]
) -> str:
    """Leave the best of start, average and tuned in the model; a tie goes to the one that moved less."""
    if validation is None:
        return "tuned"
    named = dict(model.named_parameters())
    tuned = {name: named[name].detach().clone() for name in begin}
    states = {"start": begin, "average": {k: (begin[k] + tuned[k]) / 2 for k in begin}, "tuned": tuned}
    for name in ("average", "tuned"):
        put(named, states[name])
        scores[name] = validation()
    worth = {name: -math.inf if math.isnan(score) else score for name, score in scores.items()}
    kept = max(states, key=lambda name: worth[name])  # the first of equals
    put(named, states[kept])
    return kept


def _identity(source: Any, policy: Policy, start: Start, targets: np.ndarray) -> str:
    """What is trained on what: a checkpoint of anything else is not taken up."""
    arrays = {**vars(start), "targets": np.asarray(targets)}
    return fingerprint([source.fingerprint, policy.name, vars(policy), fingerprint_tensors(arrays)])


def _as_source(source: Any, model: Tuned) -> Any:
    for parameter in model.network.parameters():
        parameter.requires_grad_(False)
    weights = fingerprint([float(p.double().sum()) for p in model.network.parameters()], 6)
    address = f"{source.address.partition('+')[0]}+tuned-{weights}"
    return dataclasses.replace(source, network=model.network.eval(), address=address)
