"""fit(): the main job, step by step.

1. Each target column goes to the fitter of its task (``FITTERS``), which refuses what cannot work.
2. Each fitter extracts features once and chooses layers and head by cross-validation on the data at hand.
3. The target models and the sources become a frozen :class:`Predictor`.
4. Unless the policy is "frozen", fine-tuning starts from there; it is kept where held-out items show that it is
   clearly better.
"""

from __future__ import annotations

import dataclasses
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
from headstart.policies.base import policy as make_policy
from headstart.predictor.predictor import Predictor
from headstart.predictor.storage import KEY_BYTES
from headstart.sources.base import Source, load_source
from headstart.speech_heads.base import CtcHead
from headstart.training.distributed import init_distributed
from headstart.transfer.finetune_search import search_finetuning
from headstart.transfer.summarization import SUMMARIZATION
from headstart.transfer.task_heads import TASK_HEADS
from headstart.transfer.tasks import FitConfig, FitResult, TaskFitter
from headstart.transfer.transcription import TRANSCRIPTION

FITTERS: Mapping[str, TaskFitter] = {
    "classification": TASK_HEADS,
    "multilabel": TASK_HEADS,
    "regression": TASK_HEADS,
    "summarization": SUMMARIZATION,
    "transcription": TRANSCRIPTION,
}

# Packages whose version can change numbers.
_VERSIONS = ("headstart", "torch", "numpy", "scikit-learn", "timm", "transformers", "keras")


def fit(
    source: Source | str | Sequence[Source | str],
    data: Dataset,
    *,
    layers: str | Iterable[str] = "auto",
    head: str | Head | CtcHead = "auto",
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
        without a budget; with one it fine-tunes where that fits into the budget, and keeps what validates best.
    balance : {"auto", "none", "logit", "weights"}
        What to do about uneven classes; one meaning everywhere (see :mod:`headstart.imbalance`).
    budget : float, optional
        Seconds that fine-tuning may take.
    pooling, store, engine, precision, on_error, device
        As for :func:`headstart.extract`.
    guard : bool
        True returns whichever validates best: the frozen predictor, the tuned one or the average of their weights.
        False returns the tuned one in any case.
    length : float or str, optional
        Of summaries: sentences (``3``), a share of them (``0.3``, ``"30 %"``) or ``"100 words"``. None is as long as
        the reference summaries of the training data.
    exact : bool
        True solves the head (ridge, LDA or nearest centroid) from exact moments, sums over the rows, and keeps them,
        so that :meth:`Predictor.forget` can take items out again. They take 4·d² bytes for d features, usually two or
        three times over, in the saved predictor, and twice that in memory.
    checkpoint : path, optional
        File in which fine-tuning saves its progress, to be taken up after a kill.
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
    check_has_targets(data, "fit")
    if not BALANCES.allows(balance):
        raise UnknownName(unknown_name("values of balance", balance, list(BALANCES.names)))
    init_distributed()
    resolved_policy = make_policy(_default_policy(policy, budget))
    config = FitConfig(
        sources=_load_sources(source),
        data=data,
        layers=layers if isinstance(layers, str) else tuple(layers),
        head=head,
        pooling=pooling,
        balance=balance,
        budget=budget,
        seed=resolve_seed(random_state),
        store=store,
        checkpoint=Path(checkpoint).expanduser() if checkpoint else None,
        engine=engine,
        precision=precision,
        on_error=on_error,
        device=device,
        length=length,
        exact=exact,
    )
    plan = _assign_columns(config)
    can_finetune = any(fitter.supports_finetuning for fitter in plan) and all(
        "torch" in source.engines for source in config.sources
    )
    frozen = resolved_policy.name == "frozen" or (policy == "auto" and not can_finetune)
    if exact:
        _check_exact(plan, frozen=frozen)
    if not frozen:
        _check_finetunable(plan, config.sources, resolved_policy.name)

    results: list[FitResult] = []
    for fitter, columns in plan.items():
        result = fitter.fit(config, columns)
        results.append(result)
        # A predictor runs each source in one way: later tasks are fitted on features made as the first one's were.
        config = dataclasses.replace(config, runtimes=result.runtimes)
    predictor = _assemble(config, results)
    if frozen:
        return predictor
    candidates = results[0].candidates
    assert candidates is not None  # checked above: fine-tuning takes heads alone
    return search_finetuning(
        predictor,
        candidates,
        resolved_policy,
        guard=guard,
        budget=budget,
        seed=config.seed,
        device=device,
        checkpoint=config.checkpoint,
        store=store,
        layers=layers,
        head=head,  # type: ignore[arg-type]  # the fitters of heads have refused a CTC head
        auto=policy == "auto",
    )


def _assign_columns(config: FitConfig) -> dict[TaskFitter, list[Target]]:
    """Assign each target column to the fitter of its task, and refuse what can be refused before any work."""
    plan: dict[TaskFitter, list[Target]] = {}
    for column in config.data.columns:
        if column.task not in FITTERS:
            raise OptionError(
                f"{column.name!r} is {column.task}, which cannot be fitted; these tasks can: {', '.join(FITTERS)}."
            )
        plan.setdefault(FITTERS[column.task], []).append(column)
    if config.length is not None and not any(column.task == "summarization" for column in config.data.columns):
        raise OptionError('length= is of summaries, and no target is one. Say task="summarization" for the dataset.')
    for fitter, columns in plan.items():
        fitter.check(config, columns)
    return plan


def _check_exact(plan: Mapping[TaskFitter, Sequence[Target]], *, frozen: bool) -> None:
    others = _without_finetuning(plan)
    if not others and frozen:
        return
    reason = f", and {', '.join(others)} has none."
    if not others:
        reason = "; fine-tuning is none: leave out policy= and budget=."
    raise OptionError(f"exact=True is for heads that are solved from sums over frozen features{reason}")


def _check_finetunable(plan: Mapping[TaskFitter, Sequence[Target]], sources: Sequence[Source], policy: str) -> None:
    for source in sources:
        _ = source.module  # raises, with the reason, for a source that torch does not run
    fixed = _without_finetuning(plan)
    if fixed:
        raise OptionError(f"policy={policy!r} cannot fine-tune for {', '.join(fixed)}; use policy='frozen'.")


def _without_finetuning(plan: Mapping[TaskFitter, Sequence[Target]]) -> list[str]:
    """Name the columns of tasks whose fitters cannot fine-tune: they have no head that is solved from features."""
    return [
        f"{column.name!r} ({column.task})"
        for fitter, columns in plan.items()
        if not fitter.supports_finetuning
        for column in columns
    ]


def _assemble(config: FitConfig, results: Sequence[FitResult]) -> Predictor:
    """Combine the fitters' results into the frozen predictor, its targets in column order."""
    models = {model.target: model for result in results for model in result.targets}
    tables: dict[str, Any] = {}
    history: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    trained_on: set[bytes] = set()
    for result in results:
        tables |= result.tables
        history |= result.history
        for stage, spent in result.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        trained_on |= {key[:KEY_BYTES] for key in result.data.keys() if key is not None}
    return Predictor(
        sources=config.sources,
        targets=tuple(models[name] for name in config.data.target_names),
        choices=results[0].runtimes,  # later fitters were given the runtimes of the first
        history=history,
        chosen={"selection": tables, "policy": "frozen", "seconds": seconds},
        provenance={**_provenance(config), "precision": config.precision},
        trained_on=frozenset(trained_on),
    )


def _load_sources(source: Source | str | Sequence[Source | str]) -> tuple[Source, ...]:
    several = [source] if isinstance(source, (str, Source)) else list(source)
    if not several:
        raise OptionError("fit() needs at least one source.")
    return tuple(load_source(source) for source in several)


def _default_policy(policy: str | Policy, budget: float | None) -> str | Policy:
    """``"auto"`` is frozen without a budget, and with one the last layers are fine-tuned."""
    if problem := budget_problem(budget):
        raise OptionError(problem)
    if policy != "auto":
        return policy
    return "frozen" if budget is None else "last_layers"


def _provenance(config: FitConfig) -> dict[str, Any]:
    return {
        "random_state": config.seed,
        "train": config.data.fingerprint,
        "items": len(config.data),
        "sources": [{"address": s.address, "fingerprint": s.fingerprint, **dict(s.meta)} for s in config.sources],
        "versions": dict(_installed_versions()),
    }


@lru_cache(maxsize=1)  # a search through the installed packages takes longer than a small fit
def _installed_versions() -> tuple[tuple[str, str], ...]:
    """Versions of the packages that change numbers, for the record."""
    versions = [(name, version) for name in _VERSIONS if (version := extras.installed_version(name))]
    return (*versions, ("python", sys.version.partition(" ")[0]))
