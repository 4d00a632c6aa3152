"""prove(): the plan, the runs, the verdict. See the package for who competes, ``_verdict`` for what is concluded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
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
from headstart.errors import OptionError
from headstart.extraction.extract import extract
from headstart.policies.base import POLICIES, Policy
from headstart.policies.base import policy as policy_named
from headstart.proof.assembly import build_proof
from headstart.proof.budget import ProofPlan
from headstart.proof.experiment import Experiment, RunCache, planned, run_all
from headstart.proof.few_shot_splits import few_shot_splits
from headstart.proof.forgetting import SourceTask
from headstart.result.proof import Proof
from headstart.sources.base import Source, load_source

_FEWEST = 2
_FORMAT = 2  # raise it when the same runs would come out otherwise


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
    """Was the transfer worth anything? Compare it with doing without, on your data.

    Parameters
    ----------
    source : Source or address
    data : Dataset
        With classes. A test part is split off once (stratified, groups whole) and only ever answered; it is the part
        called "test" where the data came with parts.
    shots : sequence of int
        Labels per class to compare at. Rivals are also given more, up to 8 times the largest, to see how many labels
        transfer saves.
    repeats : int
        Draws of training items: other items and other random weights, the same ones for every contender.
    budget : seconds, optional
        For everything, features included. What it leaves is shared equally by training from scratch and fine-tuning.
        When it does not suffice, repeats, fine-tuning, training from scratch (with the most labels first) and numbers
        of labels are given up in this order; ``.notes`` and ``.verdict`` say so. None counts ``steps`` instead: the
        result is then the same on every run.
    policy : str or Policy
        How the fine-tuned contender moves; ``"frozen"`` leaves it out.
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
    begun = time.perf_counter()
    seed = resolve_seed(random_state)
    source = load_source(source)
    shots = _check(shots, repeats, budget=budget, steps=steps)
    draws = few_shot_splits(data, target, shots=shots, repeats=repeats, test_size=test_size, seed=seed)
    layers = layers if isinstance(layers, str) else tuple(layers)
    bank = extract(source, draws.data, layers=layers, pooling=pooling, store=store, device=device)
    draws = draws.only(bank.keep(draws.data))
    task = None if source_data is None else SourceTask(source, source_data, device=device, seed=seed)
    contest = Experiment(
        source, draws, bank, layers=layers, pooling=pooling, policy=_policy(policy, budget), store=store, device=device,
        seed=seed, source_task=task,
    )  # fmt: skip
    asked = [
        layers,
        pooling,
        repeats,
        budget,
        steps,
        seed,
        device,
        None if source_data is None else source_data.fingerprint,
    ]
    cells = _cells(contest, asked, checkpoint)
    plan = ProofPlan.from_dict(planned(contest, cells, budget=budget, steps=steps, begun=begun))
    for text in (*draws.notes, *plan.notes, plan.said):
        note(text)
    done = run_all(contest, cells, plan, budget=budget)
    return build_proof(contest, plan, done, notes=(*draws.notes, *plan.notes), data=data, asked=asked)


def _check(shots: Sequence[int], repeats: int, *, budget: float | None, steps: int) -> tuple[int, ...]:
    """What can be refused before anything is computed."""
    counts = [shots] if isinstance(shots, int) else list(shots)
    wrong = []
    if not counts or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in counts):
        wrong.append(f"shots must be whole numbers ≥ 1, labels per class to compare at; got {shots!r}.")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < _FEWEST:
        wrong.append(f"repeats must be at least {_FEWEST}, to see the luck of the draw; got {repeats!r}.")
    if problem := budget_problem(budget):
        wrong.append(problem)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        wrong.append(f"steps must be a whole number ≥ 1; got {steps!r}.")
    if wrong:
        raise OptionError("\n".join(wrong))
    return tuple(sorted(set(counts)))


def _policy(policy: str | Policy, budget: float | None) -> str | Policy | None:
    """None is no fine-tuned contender; without a budget ``"auto"`` would never tune."""
    if policy == "auto":
        return "auto" if budget is not None else "last_layers"
    made = policy_named(policy)
    return None if isinstance(made, POLICIES["frozen"]) else made


def _cells(contest: Experiment, asked: list[Any], checkpoint: str | Path | None) -> RunCache:
    """The folder of this proof: named after everything that its runs depend on."""
    moves = contest.policy
    described = moves if isinstance(moves, str) or moves is None else [moves.name, vars(moves)]
    versions = [extras.installed_version(name) for name in ("headstart", "torch")]
    what = [
        _FORMAT,
        versions,
        contest.source.fingerprint,
        contest.draws.fingerprint,
        contest.draws.shots,
        described,
        asked,
    ]
    home = Path(checkpoint).expanduser() if checkpoint is not None else cache_folder() / "proofs"
    return RunCache(home / fingerprint(what))
