"""The scikit-learn face: its own checks, and what people do with estimators."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from headstart.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.estimators import FeatureExtractor, TransferClassifier, TransferRegressor
from headstart.heads.base import head
from headstart.predictor import Predictor
from headstart.sources.base import load_source
from headstart.transfer import fit
from networks import pictures, separable


@parametrize_with_checks(
    [TransferClassifier(head="lda"), TransferClassifier(), TransferRegressor(), FeatureExtractor()]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


class _Column:
    """What a column of a table offers."""

    def __init__(self, values):
        self.values = np.array(values, dtype=object)

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, which):
        return _Column(self.values[which]) if isinstance(which, slice) else self.values[which]

    def __iter__(self):
        return iter(self.values)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve files, dark and bright, as paths with their labels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(12):
        pixels = rng.integers(0, 90, (20, 20, 3), dtype=np.uint8) + np.uint8(150 * (i % 2))
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths, ["dark", "bright"] * 6


class TestConstructors:
    @pytest.mark.parametrize("kind", [TransferClassifier, TransferRegressor, FeatureExtractor])
    def test_store_only_and_check_nothing(self, kind):
        odd = object()
        result = kind(odd, **{name: odd for name in kind().get_params() if name != "source"})
        assert all(value is odd for value in result.get_params(deep=False).values())
        assert set(vars(result)) == set(kind().get_params())

    def test_what_is_wrong_is_said_by_fit(self):
        X, y = separable(12)
        for wrong in ({"head": "rigde"}, {"balance": "even"}, {"policy": "frosen"}, {"layers": "nope"}):
            with pytest.raises(HeadstartError):
                TransferClassifier(**wrong).fit(X, y)

    def test_clone_is_unfitted_and_equal(self):
        X, y = separable(30)
        fitted = TransferClassifier(head=head("ridge", alpha=2.0), random_state=3).fit(X, y)
        copy = clone(fitted)
        assert not hasattr(copy, "predictor_")
        assert copy.get_params()["random_state"] == 3 and copy.head.config() == fitted.head.config()

    def test_a_source_survives_clone_with_its_fingerprint(self):
        source = load_source("fake:vector")
        assert clone(TransferClassifier(source)).source.fingerprint == source.fingerprint

    def test_no_random_state_is_the_seed_0(self):
        X, y = separable(30)
        a, b = (TransferClassifier(head="ridge", random_state=state).fit(X, y) for state in (None, 0))
        assert a.predictor_.provenance["random_state"] == 0
        assert np.array_equal(a.predict_proba(X), b.predict_proba(X))


class TestVectors:
    def test_same_as_fit(self):
        X, y = separable(60)
        estimator = TransferClassifier(head="ridge").fit(X, y)
        predictor = fit("identity:vector", Dataset.from_arrays(X, y, task="classification"), head="ridge")
        assert np.array_equal(estimator.predict_proba(X), predictor.predict_proba(X))
        assert isinstance(estimator.predictor_, Predictor)

    def test_nothing_is_left_on_the_disk(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
        X, y = separable(24)
        TransferClassifier(head="lda").fit(X, y).predict(X)
        FeatureExtractor().fit(X).transform(X)
        assert not (tmp_path / "cache" / "bank").exists()

    @pytest.mark.parametrize("labels", [["a", "b", "c"], [10, 20, 30], [-1, 0, 7], [1.0, 2.0, 3.0]])
    def test_labels_come_back_as_they_were_given(self, labels):
        X, y = separable(45)
        value = np.array(labels)[y]
        estimator = TransferClassifier(head="lda").fit(X, value)
        assert estimator.predict(X).dtype == value.dtype
        assert (estimator.predict(X) == value).mean() > 0.9
        assert estimator.classes_.tolist() == sorted(labels)

    def test_many_whole_number_classes_are_still_classes(self):
        y = np.repeat(np.arange(30) * 7, 3)
        X = np.eye(30, dtype=np.float32)[y // 7]
        assert (TransferClassifier(head="ridge").fit(X, y).predict(X) == y).all()

    def test_shapes(self):
        X, y = separable(40, classes=2)
        estimator = TransferClassifier(head="lda").fit(X, y)
        assert estimator.decision_function(X).shape == (40,)
        assert ((estimator.decision_function(X) > 0) == (estimator.predict(X) == 1)).all()
        assert np.allclose(estimator.predict_proba(X).sum(1), 1)
        assert estimator.predict_proba(X[:1]).shape == (1, 2)

    def test_regression(self):
        X, _ = separable(60)
        y = X @ np.arange(8.0)
        estimator = TransferRegressor().fit(X, y)
        assert estimator.predict(X).shape == (60,) and estimator.score(X, y) > 0.99

    def test_one_class_is_refused_by_name(self):
        X, _ = separable(10)
        with pytest.raises(ValueError, match="1 class: 'a'"):
            TransferClassifier().fit(X, ["a"] * 10)

    def test_pickle_keeps_the_predictions(self):
        X, y = separable(30)
        estimator = TransferClassifier(head="lda").fit(X, y)
        assert np.array_equal(pickle.loads(pickle.dumps(estimator)).predict_proba(X), estimator.predict_proba(X))


class TestTools:
    def test_grid_over_heads_and_layers(self):
        X, y = separable(45)
        grid = {"head": ["ridge", "lda", head("knn", n_neighbors=3)], "layers": ["1", "last"]}
        result = GridSearchCV(TransferClassifier("fake:vector"), grid, cv=3, error_score="raise").fit(X, y)
        assert result.best_score_ > 0.8
        assert len(result.cv_results_["mean_test_score"]) == 6

    def test_cross_val_score(self):
        X, y = separable(45)
        assert cross_val_score(TransferClassifier(head="lda"), X, y, cv=3, error_score="raise").min() > 0.8

    def test_features_in_a_pipeline(self):
        X, y = separable(45)
        line = make_pipeline(FeatureExtractor("fake:vector", layers=["1", "3"]), PCA(5), LogisticRegression())
        assert line.fit(X, y).score(X, y) > 0.9
        assert line[0].transform(X).shape == (45, 16 + 12)
        assert line.set_params(featureextractor__layers="1").fit(X, y)[0].transform(X).shape == (45, 16)

    def test_identity_features_are_the_items(self):
        X, _ = separable(9)
        assert np.array_equal(FeatureExtractor().fit_transform(X), X)


class TestItems:
    @pytest.mark.parametrize("form", [list, np.array, _Column], ids=["list", "array", "column"])
    def test_paths(self, photos, form):
        paths, y = photos
        X = form(paths)
        estimator = TransferClassifier("fake:image", head="ridge").fit(X, y)
        assert list(estimator.predict(X)) == y
        assert estimator.predict_proba(X[:3]).shape == (3, 2)

    def test_paths_through_cross_validation(self, photos):
        paths, y = photos
        scores = cross_val_score(TransferClassifier("fake:image", head="ridge"), paths, y, cv=3, error_score="raise")
        assert scores.mean() > 0.8

    def test_pictures_in_memory(self):
        X = pictures(12)
        X[::2] //= 4
        y = [0, 1] * 6
        estimator = TransferClassifier("fake:image", head="ridge").fit(X, y)
        assert (estimator.predict(X) == y).all()
        assert FeatureExtractor("fake:image").fit(X).transform(X).shape == (12, 24)

    def test_features_of_paths(self, photos):
        paths, _ = photos
        assert FeatureExtractor("fake:image", layers="last").fit(paths).transform(paths[:4]).shape == (4, 24)

    def test_a_broken_file_stops_prediction_and_is_named(self, photos, tmp_path):
        paths, y = photos
        estimator = TransferClassifier("fake:image", head="ridge").fit(paths, y)
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no picture")
        with pytest.raises(ValueError, match=r"broken\.png"):
            estimator.predict([paths[0], str(broken)])

    def test_regression_on_pictures(self, photos):
        paths, y = photos
        values = [float(label == "bright") for label in y]
        assert TransferRegressor("fake:image").fit(paths, values).score(paths, values) > 0.8


def test_estimators_share_one_base():
    assert all(issubclass(kind, BaseEstimator) for kind in (TransferClassifier, TransferRegressor, FeatureExtractor))
