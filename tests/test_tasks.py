"""Tasks plug in: a task is one kind of answer and one fitter; items may be taken apart before the sources run."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from headstart.dataset import Dataset
from headstart.errors import UnreadableItem
from headstart.predictor import TARGET_MODELS, FeatureSpec, HeadModel, Segments, TargetModel, extract_features
from headstart.predictor.predictor import group_by_pass
from headstart.transfer import fit
from headstart.transfer.fit import FITTERS
from networks import pictures, separable
from predictors import fitted, labelled


def png(pixels) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


PICTURES = Dataset.from_items([png(one) for one in pictures(3)], "image")


@pytest.fixture(scope="module")
def photos():
    return fitted(Dataset.from_arrays(pictures(6), ["a", "b"] * 3), "fake:image")


def rows(predictor, data, divide, on_error="skip"):
    poolings = [{p.layer: p.pooling for p in predictor.targets[0].specs}]
    options = {"divide": divide, "on_error": on_error, "store": False}
    return extract_features(predictor.sources, predictor.running, poolings, data, **options)


def copies(counts, broken=()):
    """Item i gives counts[i] pieces, each itself; some pieces cannot be read."""

    def divide(data):
        pieces = [item for item, n in zip(data.items, counts) for _ in range(n)]
        for i in broken:
            pieces[i] = b"no picture"
        owner = np.repeat(np.arange(len(counts)), counts)
        return Segments(Dataset(pieces, modality="image"), owner, {1: "torn"})

    return divide


def test_every_task_that_can_be_fitted_can_be_answered():
    assert set(FITTERS) == set(TARGET_MODELS)
    for task, kind in TARGET_MODELS.items():
        assert issubclass(kind, TargetModel) and kind.task == task and set(kind.outputs) <= {"decision", "proba"}


def test_pieces_belong_to_their_items(photos):
    path = (0, photos.layers[0])
    result = rows(photos, PICTURES, copies([2, 0, 3]))
    assert (
        result.index.tolist() == [0, 2]
        and len(result.data) == 2
        and result.segments.item_index.tolist() == [0, 0, 1, 1, 1]
    )
    assert [(item.index, item.reason) for item in result.skipped] == [(1, "torn")]
    assert len(result.segments.data) == 5 == len(result.rows[path])
    plain = rows(photos, PICTURES, None)
    assert plain.segments is None and np.allclose(result.rows[path], plain.rows[path][[0, 0, 2, 2, 2]], atol=1e-6)


def test_an_item_without_pieces_is_raised_when_asked(photos):
    with pytest.raises(UnreadableItem, match="torn"):
        rows(photos, PICTURES, copies([1, 0, 1]), on_error="raise")
    assert not len(rows(photos, PICTURES, copies([0, 0, 0])).index)


def test_an_item_with_a_piece_that_cannot_be_read_is_left_out(photos):
    path = (0, photos.layers[0])
    result = rows(photos, PICTURES, copies([2, 2, 1], broken=[2]))
    assert result.index.tolist() == [0, 2] and result.segments.item_index.tolist() == [0, 0, 1]
    assert [item.index for item in result.skipped] == [1] and "not" in result.skipped[0].reason
    plain = rows(photos, PICTURES, None)
    assert np.allclose(result.rows[path], plain.rows[path][[0, 0, 2]], atol=1e-6)


def test_answers_share_a_pass_where_pooling_and_pieces_allow():
    base = fitted().targets[0]

    def answer(*parts, kind=None):
        return (kind or type(base))("t", tuple(FeatureSpec(0, *p) for p in parts), base.head, base.classes)

    class Divided(type(base)):
        divide = staticmethod(copies([1]))

    item, same, other = answer(("a", "avg")), answer(("a", "avg"), ("b", "avg")), answer(("a", "max"))
    apart = answer(("a", "avg"), kind=Divided)
    assert group_by_pass([item, other, same, apart]) == [[item, same], [other], [apart]]


def test_only_heads_are_fine_tuned():
    X, y = separable(36)
    data = Dataset.from_arrays(X, y, task="classification")
    predictor = fit("fake:vector", data, head="ridge", store=False)
    assert isinstance(predictor.targets[0], HeadModel)
    assert {task for task, item in FITTERS.items() if item.supports_finetuning} == {
        "classification",
        "multilabel",
        "regression",
    }
    assert set(FITTERS) == set(TARGET_MODELS)


def test_classes_keep_their_order_in_every_answer():
    predictor = fitted(labelled(["b", "a", "c"]))
    assert predictor.targets[0].width == 3 and predictor.classes == ("a", "b", "c")
