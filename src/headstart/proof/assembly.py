"""From finished runs to the record: what is said, what it cost, and under which seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headstart._base import extras
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError
from headstart.proof.analysis import (
    Findings,
    advice,
    findings,
    gains_of,
    helps,
    labels_of,
    rows_of,
    time_of,
    verdict_text,
)
from headstart.proof.baselines import NAMES
from headstart.proof.budget import ProofPlan
from headstart.proof.experiment import Experiment, ExperimentResults
from headstart.proof.forgetting import forgotten
from headstart.result.proof import LabelsSaved, Proof

_VERSIONS = ("headstart", "torch", "numpy", "scikit-learn", "timm", "transformers")


def build_proof(
    contest: Experiment,
    plan: ProofPlan,
    done: ExperimentResults,
    *,
    notes: Sequence[str],
    data: Dataset,
    asked: Sequence[Any],
) -> Proof:
    """The proof.

    Raises
    ------
    DataError
        When no rival, or no transfer, came through: there is nothing to compare.
    """
    draws = contest.draws
    found = findings(
        done.runs, range(done.repeats), plan.shots, test=draws.held, names=_names(contest), seed=contest.seed,
        given_up=plan.given_up,
    )  # fmt: skip
    if not found.rivals or not found.ways:
        raise DataError("\n".join(["There is nothing to compare transfer with:", *notes, *done.notes]))
    rows, gains, outcome = rows_of(found), gains_of(found), helps(found)
    labels = labels_of(found)
    tuned = [run for (name, _, _), run in done.runs.items() if name == "fine-tuned"]
    after = [run["source_task"] for run in tuned if "source_task" in run]
    kept = sum(bool(run["moved"]) for run in tuned)
    return Proof(
        rows,
        verdict=verdict_text(found, gains, outcome),
        helps=outcome,
        gains=gains,
        labels_saved=_headline(found, labels, gains) if outcome else None,
        labels=labels,
        time_saved=time_of(rows, plan.shots) if outcome else None,
        forgetting=forgotten(done.source_task, after, kept),
        metric="balanced accuracy" if draws.balanced else "accuracy",
        chance=found.test.chance,
        cost={"seconds": round(done.seconds, 3), "training_seconds_per_run": plan.allowance if plan.trained else None},
        provenance={**_provenance(contest, done, data), "budget": asked[3], "repeats": done.repeats},
        notes=(
            *notes,
            *done.notes,
            *_about(contest, plan, kept, len(tuned)),
            *([advice(found)] if outcome is None else []),
        ),
        skipped=tuple(contest.bank.skipped),
    )


def _names(contest: Experiment) -> dict[str, str]:
    return {
        "raw": NAMES[contest.draws.data.modality],
        "random": "random-weight features",
        "scratch": "training from scratch",
        "frozen": "frozen features",
        "fine-tuned": "fine-tuning",
    }


def _headline(found: Findings, labels: Sequence[LabelsSaved], gains: Sequence[Any]) -> LabelsSaved | None:
    """Against the strongest rival, at the largest number of labels that says something."""
    best = min((gain for gain in gains if gain.shots is None), key=lambda gain: gain.value).baseline
    theirs = [one for one in labels if one.baseline == best]
    telling = [one for one in theirs if one.reached or one.most > one.shots]
    return (telling or theirs)[-1]


def _about(contest: Experiment, plan: ProofPlan, kept: int, tuned: int) -> list[str]:
    """What a reader has to know to judge the figures."""
    test, said = contest.draws.test, []
    said.append(f"All were asked the same {len(test)} test items, which nothing was chosen on.")
    if plan.allowance is not None and plan.trained:
        names = _names(contest)
        who = " and ".join(names[name] for name in plan.trained)
        each = " each" * (len(plan.trained) > 1)
        said.append(f"{who[0].upper()}{who[1:]} had {plan.allowance:.1f} s{each} in every run.")
    if tuned:
        said.append(
            f"Fine-tuned weights were kept in {kept} of {tuned} runs; in the others frozen features were as good on "
            "items held out of the draw."
        )
    return said


def _provenance(contest: Experiment, done: ExperimentResults, data: Dataset) -> dict[str, Any]:
    moves = contest.policy
    return {
        "random_state": contest.seed,
        "source": contest.source.address,
        "fingerprint": contest.source.fingerprint,
        "data": data.fingerprint,
        "test_items": len(contest.draws.test),
        "policy": moves if isinstance(moves, str) or moves is None else moves.name,
        "scratch_lr": {str(count): lr for count, lr in done.rates.items()},
        "versions": {name: v for name in _VERSIONS if (v := extras.installed_version(name))},
    }
