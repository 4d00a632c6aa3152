"""Compare transfer with its baselines on the user's data: split, plan, run, and write the outcome down as a Proof.

The package's docstring lists the methods that are compared, :mod:`headstart.proof.analysis` has the statistics.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart._base import extras
from headstart._base.constraints import budget_problem
from headstart._base.files import cache_folder
from headstart._base.hashing import fingerprint
from headstart._base.processes import require_single_process
from headstart._base.progress import note
from headstart.dataset.dataset import Dataset
from headstart.dataset.splits import resolve_seed
from headstart.errors import DataError, OptionError
from headstart.extraction.extract import extract
from headstart.policies.base import POLICIES, Policy
from headstart.policies.base import policy as make_policy
from headstart.proof.analysis import (
    LearningCurves,
    advice,
    compute_gains,
    compute_labels_saved,
    compute_time_saved,
    learning_curves,
    proof_rows,
    transfer_helps,
    verdict_text,
)
from headstart.proof.baselines import NAMES
from headstart.proof.budget import ProofPlan
from headstart.proof.experiment import Experiment, ExperimentResults, make_plan, run_all
from headstart.proof.few_shot_splits import few_shot_splits
from headstart.proof.forgetting import SourceTask, measure_forgetting
from headstart.proof.run_cache import RunCache
from headstart.result.proof import Gain, LabelsSaved, Proof
from headstart.sources.base import Source, load_source

_MIN_REPEATS = 2
_FORMAT = 2  # raise it when the same runs would come out otherwise: runs on disk are then done again
_VERSIONS = ("headstart", "torch", "numpy", "scikit-learn", "timm", "transformers")


@dataclass(frozen=True)
class ProveConfig:
    """Settings of a proof that its runs depend on, as the user gave them.

    Attributes
    ----------
    layers : str or tuple of str
    pooling : str
    repeats : int
    budget : float or None
        Seconds.
    steps : int
    seed : int
    device : str
    source_data : str or None
        Fingerprint of the source task's items.
    """

    layers: str | tuple[str, ...]
    pooling: str
    repeats: int
    budget: float | None
    steps: int
    seed: int
    device: str
    source_data: str | None

    def cache_key(self) -> list[object]:
        """Return the settings in the order in which the names of cache folders have hashed them since version 0.1."""
        head = [self.layers, self.pooling, self.repeats, self.budget]
        return [*head, self.steps, self.seed, self.device, self.source_data]


def prove(
    source: Source | str,
    data: Dataset,
    *,
    shots: Sequence[int] = (4, 16, 64),
    repeats: int = 5,
    budget: float | None = None,
    policy: str | Policy = "auto",
    layers: str | Iterable[str] = "auto",
    pooling: str = "auto",
    test_size: float = 0.3,
    source_data: Dataset | None = None,
    steps: int = 240,
    target: str | None = None,
    store: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    random_state: int = 0,
) -> Proof:
    """Compare transfer from a source with baselines that do without it, on your data.

    Parameters
    ----------
    source : Source or address
    data : Dataset
        With classes. A test set is split off once (stratified, groups whole) and only ever predicted; it is the part
        called "test" where the data came with parts.
    shots : sequence of int
        Labels per class to compare at. Baselines are also given more, up to 8 times the largest, to see how many
        labels transfer saves.
    repeats : int
        Draws of training items: other items and other random weights, the same ones for every method.
    budget : seconds, optional
        For everything, features included. What it leaves is shared equally by training from scratch and fine-tuning.
        When it does not suffice, repeats, fine-tuning, training from scratch (with the most labels first) and numbers
        of labels are given up in this order; ``.notes`` and ``.verdict`` say so. None counts ``steps`` instead: the
        result is then the same on every run.
    policy : str or Policy
        How the weights move in fine-tuning; ``"frozen"`` leaves it out.
    layers, pooling : as for :func:`headstart.fit`
    test_size : float or int
    source_data : Dataset, optional
        Items of the source task with its classes: how much of it fine-tuning forgets.
    steps : int
        Of training from scratch, without a budget.
    store : path, optional
        Where the source's features are kept.
    checkpoint : path, optional
        Folder for finished runs; ``proofs/`` in the cache folder. Killed at any moment and called again with the same
        arguments, it goes on from the last finished run.
    random_state : int, Generator or None

    Returns
    -------
    Proof
        ``.helps`` (True, False, or None where it cannot be told), ``.verdict``, ``.rows``, ``.gains``,
        ``.labels_saved``, ``.time_saved``, ``.forgetting``; print it for a table.

    Raises
    ------
    DataError, OptionError
        Without one target column of classes, or with too few items.

    Notes
    -----
    Cost: two forward passes per item and repeat, and repeats × numbers of labels × 2 trainings; the plan is reported
    before they start. The learning rate for training from scratch is chosen on training items, in one more run per
    number of labels, which is not charged to it.
    """
    require_single_process("prove(), which compares what equal seconds are worth,")
    started = time.perf_counter()
    seed = resolve_seed(random_state)
    source = load_source(source)
    shots = _check(shots, repeats, budget=budget, steps=steps)
    splits = few_shot_splits(data, target, shots=shots, repeats=repeats, test_size=test_size, seed=seed)
    layers = layers if isinstance(layers, str) else tuple(layers)
    bank = extract(source, splits.data, layers=layers, pooling=pooling, store=store, device=device)
    splits = splits.restrict(bank.keep(splits.data))
    task = None if source_data is None else SourceTask(source, source_data, device=device, seed=seed)
    experiment = Experiment(
        source, splits, bank, layers=layers, pooling=pooling, policy=_policy(policy, budget), store=store,
        device=device, seed=seed, source_task=task,
    )  # fmt: skip
    config = ProveConfig(
        layers=layers, pooling=pooling, repeats=repeats, budget=budget, steps=steps, seed=seed, device=device,
        source_data=None if source_data is None else source_data.fingerprint,
    )  # fmt: skip
    cache = _run_cache(experiment, config, checkpoint)
    plan = make_plan(experiment, cache, budget=budget, steps=steps, started=started)
    for text in (*splits.notes, *plan.notes, plan.description):
        note(text)
    results = run_all(experiment, cache, plan, budget=budget)
    return build_proof(experiment, plan, results, notes=(*splits.notes, *plan.notes), data=data, config=config)


def _check(shots: Sequence[int], repeats: int, *, budget: float | None, steps: int) -> tuple[int, ...]:
    """Refuse what can be refused before anything is computed; return the numbers of labels in order."""
    counts = [shots] if isinstance(shots, int) else list(shots)
    problems = []
    if not counts or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in counts):
        problems.append(f"shots must be whole numbers ≥ 1, labels per class to compare at; got {shots!r}.")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < _MIN_REPEATS:
        problems.append(f"repeats must be at least {_MIN_REPEATS}, to see the luck of the draw; got {repeats!r}.")
    if problem := budget_problem(budget):
        problems.append(problem)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        problems.append(f"steps must be a whole number ≥ 1; got {steps!r}.")
    if problems:
        raise OptionError("\n".join(problems))
    return tuple(sorted(set(counts)))


def _policy(policy: str | Policy, budget: float | None) -> str | Policy | None:
    """Return the policy of fine-tuning; None leaves it out. Without a budget ``"auto"`` would never fine-tune."""
    if policy == "auto":
        return "auto" if budget is not None else "last_layers"
    resolved = make_policy(policy)
    return None if isinstance(resolved, POLICIES["frozen"]) else resolved


def _run_cache(experiment: Experiment, config: ProveConfig, checkpoint: str | Path | None) -> RunCache:
    """Return the folder of this proof, named after everything that its runs depend on."""
    policy = experiment.policy
    parts = [
        _FORMAT,
        [extras.installed_version(name) for name in ("headstart", "torch")],
        experiment.source.fingerprint,
        experiment.splits.fingerprint,
        experiment.splits.shots,
        policy if isinstance(policy, str) or policy is None else [policy.name, policy.record()],
        config.cache_key(),
    ]
    parent = Path(checkpoint).expanduser() if checkpoint is not None else cache_folder() / "proofs"
    return RunCache(parent / fingerprint(parts))


# ---- From finished runs to the record. ----


def build_proof(
    experiment: Experiment,
    plan: ProofPlan,
    results: ExperimentResults,
    *,
    notes: Sequence[str],
    data: Dataset,
    config: ProveConfig,
) -> Proof:
    """Conclude from the finished runs: rows, gains, the verdict, and what a reader needs to judge them.

    Raises
    ------
    DataError
        When no baseline, or no transfer, came through: there is nothing to compare.
    """
    splits = experiment.splits
    curves = learning_curves(
        results.runs, range(results.repeats), plan.shots, test=splits.test_set, names=_method_names(experiment),
        seed=experiment.seed, given_up=plan.given_up,
    )  # fmt: skip
    if not curves.baselines or not curves.transfer_methods:
        raise DataError("\n".join(["There is nothing to compare transfer with:", *notes, *results.notes]))
    rows, gains, helps = proof_rows(curves), compute_gains(curves), transfer_helps(curves)
    labels = compute_labels_saved(curves)
    finetuned = [run for (name, _, _), run in results.runs.items() if name == "fine-tuned"]
    after = [run.source_task for run in finetuned if run.source_task is not None]
    n_kept = sum(bool(run.moved) for run in finetuned)
    return Proof(
        rows,
        verdict=verdict_text(curves, gains, helps),
        helps=helps,
        gains=gains,
        labels_saved=_headline(curves, labels, gains) if helps else None,
        labels=labels,
        time_saved=compute_time_saved(rows, plan.shots) if helps else None,
        forgetting=measure_forgetting(results.source_task, after, n_kept),
        metric="balanced accuracy" if splits.balanced else "accuracy",
        chance=curves.test.chance,
        cost={
            "seconds": round(results.seconds, 3),
            "training_seconds_per_run": plan.allowance if plan.trained else None,
        },
        provenance={**_provenance(experiment, results, data), "budget": config.budget, "repeats": results.repeats},
        notes=(
            *notes,
            *results.notes,
            *_explanations(experiment, plan, n_kept, len(finetuned)),
            *([advice(curves)] if helps is None else []),
        ),
        skipped=tuple(experiment.bank.skipped),
    )


def _method_names(experiment: Experiment) -> dict[str, str]:
    return {
        "raw": NAMES[experiment.splits.data.modality],
        "random": "random-weight features",
        "scratch": "training from scratch",
        "frozen": "frozen features",
        "fine-tuned": "fine-tuning",
    }


def _headline(curves: LearningCurves, labels: Sequence[LabelsSaved], gains: Sequence[Gain]) -> LabelsSaved | None:
    """Against the strongest baseline, at the largest number of labels at which something can be said."""
    strongest = min((gain for gain in gains if gain.shots is None), key=lambda gain: gain.value).baseline
    against = [saved for saved in labels if saved.baseline == strongest]
    informative = [saved for saved in against if saved.reached or saved.most > saved.shots]
    return (informative or against)[-1]


def _explanations(experiment: Experiment, plan: ProofPlan, n_kept: int, n_finetuned: int) -> list[str]:
    """Sentences that a reader needs to judge the figures."""
    n_test = len(experiment.splits.test)
    sentences = [f"All methods are evaluated on the same {n_test} test items, which nothing was chosen on."]
    if plan.allowance is not None and plan.trained:
        names = _method_names(experiment)
        trained = " and ".join(names[name] for name in plan.trained)
        each = " each" if len(plan.trained) > 1 else ""
        sentences.append(f"{trained[0].upper()}{trained[1:]} had {plan.allowance:.1f} s{each} in every run.")
    if n_finetuned:
        sentences.append(
            f"Fine-tuned weights were kept in {n_kept} of {n_finetuned} runs; in the others frozen features were as "
            "good on items held out of the draw."
        )
    return sentences


def _provenance(experiment: Experiment, results: ExperimentResults, data: Dataset) -> dict[str, Any]:
    policy = experiment.policy
    return {
        "random_state": experiment.seed,
        "source": experiment.source.address,
        "fingerprint": experiment.source.fingerprint,
        "data": data.fingerprint,
        "test_items": len(experiment.splits.test),
        "policy": policy if isinstance(policy, str) or policy is None else policy.name,
        "scratch_lr": {str(count): lr for count, lr in results.learning_rates.items()},
        "versions": {name: v for name in _VERSIONS if (v := extras.installed_version(name))},
    }
