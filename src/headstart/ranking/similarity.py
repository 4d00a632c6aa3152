"""What the target shares with the sources: directions of its classes, distance of the data, similarity of layers.

* **Directions.** In standardised features of one layer: how much of the differences between the target's class means
  (their squared length) lies along the main directions that the source's own classifier uses, or along the differences
  of its own class means where its statistics are given; and the principal angles of the two. Shuffled labels give
  the chance level. (Differences of means, not LDA's directions: with n < d those are mostly noise, and did not
  separate a trained source from a random one.)
* **Distance**, where statistics are given: CORAL and Fréchet between the source's data and the target's, per layer.
* **Similarity** of all layers: linear CKA over the target's items, with the estimator that n < d does not inflate.

References
----------
Björck & Golub (1973), Numerical methods for computing angles between linear subspaces; Kornblith et al. (2019),
Similarity of neural network representations revisited; Song et al. (2012), Feature selection via dependence
maximization (the unbiased HSIC).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import eigh

from headstart.bank.bank import FeatureBank
from headstart.distances.base import distance
from headstart.errors import HeadstartError
from headstart.moments.moments import Moments
from headstart.ranking.table import Names, source_titles, subsample
from headstart.ranking.verdict import describe_similarity
from headstart.result.ranking import Row
from headstart.sources.base import Source
from headstart.sources.statistics import Statistics, statistics_of

_ROWS = 400  # CKA takes n² numbers a layer
_LAYERS = 80  # evenly spaced; the matrix is drawn
_ENERGY = 0.5  # the source's main directions hold this share of its weights
_SHUFFLES = 5  # permutations of the labels for the chance level


def compare_with_sources(
    names: Names,
    rows: Mapping[str, np.ndarray],
    T: np.ndarray,
    *,
    banks: Mapping[Source, FeatureBank],
    best: Row,
    task: str,
) -> dict[str, Any]:
    """Return all comparisons as plain data, with sentences (``"words"``). Cost: O(n²·d) a layer, O(K³) a classifier."""
    index = subsample(T, task, 0, _ROWS)
    T = T[index]
    sampled = {name: np.asarray(X[index], dtype=np.float64) for name, X in rows.items()}
    statistics, titles = {source: statistics_of(source) for source in banks}, source_titles(names)
    overlaps, distances = [], []
    for source, bank in banks.items():
        layers = {layer: sampled[name] for name, (owner, layer) in names.items() if owner is source}
        overlaps += _shared_directions(source, layers, T, statistics[source], best=best, title=titles[source])
        distances += _distances_to_training_data(bank, layers, statistics[source], title=titles[source])
    cka = _cka_matrix(names, sampled)
    result = {"subspace": overlaps, "distance": distances, "cka": cka, "items": len(T)}
    return {**result, "words": describe_similarity(result, best)}


def _shared_directions(
    source: Source,
    layers: Mapping[str, np.ndarray],
    T: np.ndarray,
    statistics: Statistics | None,
    *,
    best: Row,
    title: str,
) -> list[dict[str, Any]]:
    overlaps = []
    weights = _classifier_weights(source)
    input_layers = [layer for layer, X in layers.items() if weights is not None and X.shape[1] == weights.shape[1]]
    if weights is not None and input_layers:
        depth = {layer: source.layer(layer).depth for layer in input_layers}
        layer = max(input_layers, key=lambda name: depth[name])
        overlaps.append(_subspace_overlap((title, layer), layers[layer], T, weights.T, against="classifier"))
    layer = best.layer if source.fingerprint == best.fingerprint else next(iter(layers))
    if statistics is not None and layer in statistics.layers:
        moments = statistics.moments(layer)
        if moments.targets and moments.features == layers[layer].shape[1] and moments.count > 1:
            overlaps.append(_subspace_overlap((title, layer), layers[layer], T, moments.cross, against="classes"))
    return [overlap for overlap in overlaps if overlap]


def _subspace_overlap(
    key: tuple[str, str], X: np.ndarray, T: np.ndarray, directions: np.ndarray, *, against: str
) -> dict[str, Any]:
    """Return the share of the differences between the target's classes along the source's directions (d, K)."""
    spread = X.std(0)
    Z = (X - X.mean(0)) / np.where(spread > 1e-9 * spread.max(initial=0.0), spread, np.inf)
    source_basis = directions * spread[:, None]
    source_basis = _orthonormal_basis(source_basis - source_basis.mean(1, keepdims=True), energy=_ENERGY)
    mean_differences = Z.T @ (T - T.mean(0))
    if not source_basis.size or not mean_differences.any():
        return {}

    def share(means: np.ndarray) -> float:
        return float(((source_basis.T @ means) ** 2).sum() / (means**2).sum())

    rng = np.random.default_rng(0)
    shuffled = [T[rng.permutation(len(T))] for _ in range(_SHUFFLES)]
    chance = np.mean([share(Z.T @ (labels - labels.mean(0))) for labels in shuffled])
    target_basis = _orthonormal_basis(mean_differences)
    angles = np.linalg.svd(source_basis.T @ target_basis, compute_uv=False).clip(0, 1)
    return {
        "source": key[0],
        "layer": key[1],
        "against": against,
        "share": share(mean_differences),
        "chance": float(chance),
        "directions": target_basis.shape[1],
        "source_directions": source_basis.shape[1],
        "dimensions": Z.shape[1],
        "degrees": [round(math.degrees(math.acos(c)), 1) for c in angles],
    }


def _orthonormal_basis(directions: np.ndarray, energy: float = 1.0) -> np.ndarray:
    """Return orthonormal columns, the longest first, that hold this share of the directions' squared length."""
    tall = directions.shape[0] > directions.shape[1]
    gram = directions.T @ directions if tall else directions @ directions.T
    values, vectors = _leading_eigenvectors(gram, energy)
    keep = values > 1e-10 * max(float(values[0]), 1e-300)
    if energy < 1 and keep.any():
        keep &= np.arange(len(values)) <= int(np.searchsorted(np.cumsum(values) / np.trace(gram), energy))
    leading = vectors[:, keep]
    return np.asarray(directions @ leading / np.sqrt(values[keep]) if tall else leading)


def _leading_eigenvectors(gram: np.ndarray, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, the largest first, and vectors: a quarter of them with half the digits, where that will do.

    Of 1,001 classes the quarter takes 0.07 s, all take 0.18 s (one core).
    """
    size = len(gram)
    if energy < 1:
        subset = (size - 1 - size // 4, size - 1)
        values, vectors = eigh(gram.astype(np.float32), subset_by_index=subset, check_finite=False)
        if values.sum() >= energy * np.trace(gram):
            return values[::-1].clip(0).astype(np.float64), vectors[:, ::-1].astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    return values[::-1].clip(0), vectors[:, ::-1]


def _classifier_weights(source: Source) -> np.ndarray | None:
    """Return the weights (K, d) of the source's own linear classifier."""
    if source.classifier is None or "torch" not in source.engines:
        return None
    try:
        weight: Any = source.module.get_submodule(source.classifier).weight
        array = np.asarray(weight.detach().float().cpu().numpy(), dtype=np.float64)
    except (AttributeError, TypeError):
        return None
    array = array.reshape(array.shape[0], -1)
    return array if array.shape[0] > 1 and np.isfinite(array).all() else None


def _distances_to_training_data(
    bank: FeatureBank, layers: Mapping[str, np.ndarray], statistics: Statistics | None, *, title: str
) -> list[dict[str, Any]]:
    """Return distances from the source's data to the target's, per layer of the statistics, in the order of depth."""
    if statistics is None:
        return []
    result = []
    for layer in statistics.layers:
        X = layers.get(layer)
        if X is None or len(X) < 2 or statistics.poolings[layer] != bank.recipe[layer]["pooling"]:
            continue
        try:
            source_moments, target_moments = statistics.moments(layer), Moments.from_rows(X)
            values = {name: distance(name, source_moments, target_moments) for name in ("coral", "frechet", "mean")}
            spread = float(np.trace(source_moments.covariance))
        except HeadstartError:
            continue
        relative = math.sqrt(values["frechet"] / spread) if spread > 0 else None
        counts = {"source_items": source_moments.count, "items": target_moments.count}
        result.append({"source": title, "layer": layer, **values, "relative": relative, **counts})
    return result


def _cka_matrix(names: Names, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return linear CKA of every pair of layers; sources one after the other, layers by depth."""
    order = list(names)[::-1]
    owners = list(dict.fromkeys(id(source) for source, _ in names.values()))
    order.sort(key=lambda name: (owners.index(id(names[name][0])), names[name][0].layer(names[name][1]).macs))
    if len(order) > _LAYERS:
        order = [order[i] for i in np.linspace(0, len(order) - 1, _LAYERS).astype(int)]
    n = len(next(iter(rows.values())))
    if n < 5:
        return {"labels": [], "values": []}
    kernels = np.stack([_u_centered_kernel(rows[name]).ravel() for name in order])
    products = kernels @ kernels.T
    norms = np.sqrt(products.diagonal().clip(0))
    cka = products / np.maximum(np.outer(norms, norms), 1e-30)
    titles = source_titles(names)
    labels = [{"source": titles[names[name][0]], "layer": names[name][1]} for name in order]
    return {"labels": labels, "values": np.round(cka.clip(0, 1), 4).tolist()}


def _u_centered_kernel(X: np.ndarray) -> np.ndarray:
    """Return U-centred products of the rows: inner products of such matrices are unbiased HSIC, up to a factor."""
    centered = X - X.mean(0)
    K = centered @ centered.T
    np.fill_diagonal(K, 0.0)
    n = len(K)
    sums = K.sum(0)
    K = K - sums / (n - 2) - sums[:, None] / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(K, 0.0)
    size = float(np.linalg.norm(K))
    return np.asarray(K / size if size else K, dtype=np.float32)
