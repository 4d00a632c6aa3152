"""fit(): the main job. Extract once, choose layers and head by cross-validation, fine-tune when asked. Floor 6."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from headstart._base import extras
from headstart._base.constraints import budget_problem
from headstart._base.registry import unknown_name
from headstart.dataset.dataset import Dataset, check_has_targets
from headstart.dataset.splits import resolve_seed
from headstart.dataset.targets import Target
from headstart.errors import OptionError, UnknownName
from headstart.heads.base import Head
from headstart.imbalance import BALANCES
from headstart.policies.base import Policy
from headstart.policies.base import policy as policy_named
from headstart.predictor.predictor import Predictor
from headstart.sources.base import Source, load_source
from headstart.training.distributed import init_distributed
from headstart.transfer.finetune_search import search_finetuning
from headstart.transfer.tasks import FITTERS, FitConfig, FitResult, TaskFitter

_VERSIONS = ("headstart", "torch", "numpy", "scikit-learn", "timm", "transformers", "keras")


def fit(
    source: Source | str | Sequence[Source | str],
    data: Dataset,
    *,
    layers: str | Iterable[str] = "auto",
    head: str | Head = "auto",
    policy: str | Policy = "auto",
    balance: str = "auto",
    budget: float | None = None,
    pooling: str = "auto",
    guard: bool = True,
    length: float | str | None = None,
    exact: bool = False,
    store: str | Path | None = None,
    engine: str = "auto",
    precision: str = "auto",
    on_error: str | None = None,
    random_state: int = 0,
    device: str = "auto",
    checkpoint: str | Path | None = None,
) -> Predictor:
    """Fit a predictor on features of a source (or several).

    Parameters
    ----------
    source : Source, address, or a sequence of them
    data : Dataset
        With one target column or several. Items without a label, or that cannot be read, are left out and reported.
    layers : str or iterable of str
        As for :func:`headstart.extract`. With ``"auto"`` the best layer, or the best few together, is chosen by
        cross-validation on this data.
    head : str or Head
        ``"auto"`` chooses by cross-validation; a name (``"ridge"``, ``"lda"``, ``"logistic"``, ``"knn"``,
        ``"nearest_centroid"``) or ``head("ridge", alpha=1.0)`` fixes it. ``"group_lasso"`` uses few of the features;
        ``chosen["selection"]`` says how many of each layer.
    policy : str or Policy
        ``"frozen"`` trains nothing; others fine-tune, starting from the solved head. ``"auto"`` is ``"frozen"``
        without a budget, and with one fine-tunes when that fits and pays.
    balance : {"auto", "none", "logit", "weights"}
        What to do about uneven classes; one meaning everywhere (see :mod:`headstart.imbalance`).
    budget : seconds, optional
        For fine-tuning.
    guard : bool
        True returns the best on validation of frozen, tuned and their average; False the tuned one, whatever it is
        worth.
    length : float or str, optional
        Of summaries: sentences (``3``), a share of them (``0.3``, ``"30 %"``) or ``"100 words"``. None is as long as
        the reference summaries of the training data.
    exact : bool
        True solves the head (one that is a function of moments: ridge, LDA, nearest centroids) from exact moments and
        keeps them, so that :meth:`Predictor.forget` can take items out again. They take 4·d² bytes for d features,
        mostly two or three times over, in memory (twice that) and in the saved predictor.
    random_state : int, Generator or None
        Seeds folds, order and everything else; the seed is recorded in ``provenance``.

    Returns
    -------
    Predictor

    Raises
    ------
    DataError
        Without targets, or with too little to learn from.

    Notes
    -----
    Cost: one forward pass per item (none for those in the bank), then seconds for heads; fine-tuning as its plan says.
    """
    _check(data, balance)
    init_distributed()
    wanted = policy_named(_policy(policy, budget))
    job = FitConfig(
        sources=_sources(source), data=data, layers=layers if isinstance(layers, str) else tuple(layers), head=head,
        pooling=pooling, balance=balance, budget=budget, seed=resolve_seed(random_state), store=store,
        checkpoint=Path(checkpoint).expanduser() if checkpoint else None,
        extract_options={"engine": engine, "precision": precision, "on_error": on_error, "device": device},
        length=length, exact=exact,
    )  # fmt: skip
    plan = _plan(job)
    tunable = any(fitter.supports_finetuning for fitter in plan) and all(
        "torch" in source.engines for source in job.sources
    )
    frozen = wanted.name == "frozen" or (policy == "auto" and not tunable)
    if exact:
        _need_exact(plan, frozen=frozen)
    if not frozen:
        _need_tunable(plan, job.sources, wanted.name)
    fits = [fitter.fit(job, columns) for fitter, columns in plan.items()]
    predictor = _predictor(job, fits)
    if frozen:
        return predictor
    return search_finetuning(
        predictor, fits[0].candidates, wanted, guard=guard, budget=budget, seed=job.seed, device=device,
        checkpoint=job.checkpoint, store=store, layers=layers, head=head, auto=policy == "auto",
    )  # fmt: skip


def _plan(job: FitConfig) -> dict[TaskFitter, list[Target]]:
    """Which columns each fitter does; whatever can be refused is refused here."""
    plan: dict[TaskFitter, list[Target]] = {}
    for column in job.data.columns:
        if column.task not in FITTERS:
            raise OptionError(
                f"{column.name!r} is {column.task}, which cannot be fitted; these tasks can: {', '.join(FITTERS)}."
            )
        plan.setdefault(FITTERS[column.task], []).append(column)
    if job.length is not None and not any(column.task == "summarization" for column in job.data.columns):
        raise OptionError('length= is of summaries, and no target is one. Say task="summarization" for the dataset.')
    for fitter, columns in plan.items():
        fitter.check(job, columns)
    return plan


def _need_exact(plan: Mapping[TaskFitter, Sequence[Target]], *, frozen: bool) -> None:
    others = [
        f"{c.name!r} ({c.task})" for fitter, columns in plan.items() if not fitter.supports_finetuning for c in columns
    ]
    if others or not frozen:
        raise OptionError(
            "exact=True is for heads that are solved from sums over frozen features"
            + (
                f", and {', '.join(others)} has none."
                if others
                else "; fine-tuning is none: leave out policy= and budget=."
            )
        )


def _without_finetuning(plan: Mapping[TaskFitter, Sequence[Target]]) -> list[str]:
    """Name the columns whose fitters train on features that stay as they are."""
    return [
        f"{column.name!r} ({column.task})"
        for fitter, columns in plan.items()
        if not fitter.supports_finetuning
        for column in columns
    ]


def _need_tunable(plan: Mapping[TaskFitter, Sequence[Target]], sources: Sequence[Source], policy: str) -> None:
    for source in sources:
        _ = source.module  # says why a source that torch does not run cannot be trained
    fixed = [
        f"{c.name!r} ({c.task})" for fitter, columns in plan.items() if not fitter.supports_finetuning for c in columns
    ]
    if fixed:
        raise OptionError(f"policy={policy!r} cannot fine-tune for {', '.join(fixed)}; use policy='frozen'.")


def _predictor(job: FitConfig, fits: Sequence[FitResult]) -> Predictor:
    """The frozen predictor; its answers are in the order of the columns."""
    answers = {answer.target: answer for one in fits for answer in one.targets}
    seconds: dict[str, float] = {}
    for one in fits:
        seconds |= {name: seconds.get(name, 0.0) + spent for name, spent in one.seconds.items()}
    tables = {name: table for one in fits for name, table in one.tables.items()}
    return Predictor(
        sources=job.sources,
        targets=tuple(answers[name] for name in job.data.target_names),
        choices=fits[0].choices,
        history={name: value for one in fits for name, value in one.history.items()},
        chosen={"selection": tables, "policy": "frozen", "seconds": seconds},
        provenance={**_provenance(job.sources, job.data, job.seed), "precision": job.extract_options["precision"]},
        trained_on=frozenset(key[:8] for one in fits for key in one.data.keys() if key is not None),
    )


def _sources(source: Source | str | Sequence[Source | str]) -> tuple[Source, ...]:
    several = [source] if isinstance(source, (str, Source)) else list(source)
    if not several:
        raise OptionError("fit() needs at least one source.")
    return tuple(load_source(one) for one in several)


def _check(data: Any, balance: str) -> None:
    """What can be refused before any feature is computed."""
    check_has_targets(data, "fit")
    if not BALANCES.allows(balance):
        raise UnknownName(unknown_name("values of balance", balance, list(BALANCES.names)))


def _policy(policy: str | Policy, budget: float | None) -> str | Policy:
    if problem := budget_problem(budget):
        raise OptionError(problem)
    if policy != "auto":
        return policy
    return "frozen" if budget is None else "last_layers"


def _provenance(sources: Sequence[Source], data: Dataset, seed: int) -> dict[str, Any]:
    return {
        "random_state": seed,
        "train": data.fingerprint,
        "items": len(data),
        "sources": [{"address": s.address, "fingerprint": s.fingerprint, **dict(s.meta)} for s in sources],
        "versions": dict(_versions()),
    }


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    """Looked up once: a search through the installed packages takes longer than a small fit."""
    found = [(name, v) for name in _VERSIONS if (v := extras.installed_version(name))]
    return (*found, ("python", sys.version.partition(" ")[0]))
