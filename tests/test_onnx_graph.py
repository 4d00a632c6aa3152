"""What an ONNX graph tells about itself: what it costs, what its axes mean, where everything passes."""

from __future__ import annotations

import math

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from headstart.engines import RuntimeConfig  # noqa: E402
from headstart.errors import SourceError  # noqa: E402
from headstart.sources.onnx.graph import Graph, attribute, inputs_of, representative  # noqa: E402
from headstart.sources.onnx.network import OnnxBackend, _evenly_spread  # noqa: E402

FLOAT = TensorProto.FLOAT


def node(kind, values, built, **fields):
    return helper.make_node(kind, values.split(), built.split(), **fields)


def model(nodes, *, shape=("n", 4), outputs=("y",), weights=(), opset=18):
    """A model of these nodes with one input ``x``; the outputs' shapes are left open."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def graph_of(nodes, **options):
    return Graph(model(nodes, **options), "x")


def ones(*shape):
    return np.ones(shape, np.float32)


def macs(kind, values, shapes, **fields):
    """Multiply-adds of one node whose inputs, and output ``y``, have these shapes."""
    item = graph_of([node(kind, values, "y", **fields)])
    return item.macs(shapes)[0]


# --- multiply-adds: against a count of the loops that the operator stands for ---


def test_convolutions():
    shapes = {"x": (2, 6, 9, 9), "w": (8, 3, 5, 5), "y": (2, 8, 5, 5)}  # two groups of three channels
    loops = 2 * 8 * 5 * 5 * (3 * 5 * 5)
    assert macs("Conv", "x w", shapes, group=2) == loops
    assert macs("FusedConv", "x w", shapes) == loops
    assert macs("ConvInteger", "x w", shapes) == loops
    quantised = {"x": (2, 6, 9, 9), "k": (8, 3, 5, 5), "s": (), "z": (), "y": (2, 8, 5, 5)}
    assert macs("QLinearConv", "x s z k s z s z", quantised) == loops


def test_transposed_convolutions_count_what_every_input_pixel_reaches():
    shapes = {"x": (1, 4, 3, 3), "w": (4, 2, 2, 2), "y": (1, 2, 6, 6)}
    assert macs("ConvTranspose", "x w", shapes) == 4 * 3 * 3 * 2 * 2 * 2


@pytest.mark.parametrize(
    ("left", "right"), [((5, 7), (7, 3)), ((2, 5, 7), (7, 3)), ((2, 4, 5, 7), (2, 4, 7, 3)), ((1, 7), (7, 1))]
)
def test_products(left, right):
    out = np.matmul(np.ones(left), np.ones(right)).shape
    assert macs("MatMul", "x w", {"x": left, "w": right, "y": out}) == math.prod(out) * 7


def test_quantised_products():
    shapes = {"x": (5, 7), "w": (7, 3), "s": (), "z": (), "y": (5, 3)}
    assert macs("QLinearMatMul", "x s z w s z s z", shapes) == 5 * 3 * 7
    assert macs("MatMulInteger", "x w", shapes) == 5 * 3 * 7


@pytest.mark.parametrize("turned", [0, 1])
def test_dense_layers_whichever_side_is_transposed(turned):
    left = (7, 5) if turned else (5, 7)
    assert macs("Gemm", "x w", {"x": left, "w": (7, 3), "y": (5, 3)}, transA=turned) == 5 * 3 * 7


def test_einsum_multiplies_every_index_once():
    shapes = {"x": (2, 3, 5), "w": (5, 4), "y": (2, 3, 4)}
    assert macs("Einsum", "x w", shapes, equation="bij,jk->bik") == 2 * 3 * 5 * 4
    assert macs("Einsum", "x w", shapes, equation="...j,jk->...k") == 20  # what it can name
    assert macs("Einsum", "x", shapes, equation="bij->b") == 0


def test_recurrent_layers_do_every_gate_at_every_step():
    steps, items, width, hidden, gates = 6, 2, 3, 5, 4
    shapes = {
        "x": (steps, items, width),
        "w": (1, gates * hidden, width),
        "r": (1, gates * hidden, hidden),
        "y": (steps, 1, items, hidden),
    }
    assert macs("LSTM", "x w r", shapes, hidden_size=hidden) == steps * items * gates * hidden * (width + hidden)


@pytest.mark.parametrize("kind", ["Relu", "Add", "MaxPool", "Softmax", "Transpose", "Gather"])
def test_what_multiplies_nothing_costs_nothing(kind):
    assert macs(kind, "x w", {"x": (2, 3), "w": (2, 3), "y": (2, 3)}) == 0


def test_shapes_that_are_not_known_count_nothing():
    assert macs("Conv", "x w", {"y": (1, 2, 3, 3)}) == 0
    assert macs("MatMul", "x", {"x": (2, 3)}) == 0


# --- axes ---


def axes(nodes, shapes):
    return graph_of(nodes).axes(shapes)


def test_convolutions_put_channels_first_and_what_follows_keeps_them():
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("GlobalAveragePool", "b", "c")]
    shapes = {"a": (2, 5, 5, 8), "b": (2, 5, 5, 8), "c": (2, 5, 1, 1)}  # a square that looks like channels last
    assert axes(nodes, shapes) == {"a": "chw", "b": "chw", "c": "chw"}


def test_a_transpose_turns_them():
    nodes = [
        node("Conv", "x w", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 3, 1]),
        node("Relu", "b", "c"),
        node("Transpose", "c", "d", perm=[0, 3, 1, 2]),
        node("Transpose", "d", "e", perm=[0, 2, 1, 3]),
    ]
    shapes = {"a": (2, 8, 4, 5), "b": (2, 4, 5, 8), "c": (2, 4, 5, 8), "d": (2, 8, 4, 5), "e": (2, 4, 8, 5)}
    assert axes(nodes, shapes) == {"a": "chw", "b": "hwc", "c": "hwc", "d": "chw", "e": "any"}


def test_sequences_of_convolutions_and_of_tokens():
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("MatMul", "b v", "c"), node("Tanh", "c", "d")]
    shapes = {"a": (2, 8, 30), "b": (2, 8, 30), "c": (2, 30, 6), "d": (2, 30, 6)}
    assert axes(nodes, shapes) == {"a": "ct", "b": "ct", "c": "tc", "d": "tc"}


def test_vectors_and_what_has_no_name():
    nodes = [node("Gemm", "x w", "a"), node("Reshape", "a s", "b")]
    assert axes(nodes, {"a": (2, 8), "b": (2, 2, 2, 1, 2)}) == {"a": "c", "b": "any"}


# --- dependence, cutting ---


def test_shapes_and_constants_do_not_depend_on_the_input():
    nodes = [
        node("Shape", "x", "sides"),
        node("Gather", "sides zero", "count"),
        node("Mul", "w w", "square"),
        node("MatMul", "x square", "y"),
    ]
    assert graph_of(nodes).depends == {"x", "y"}


def test_a_cut_model_computes_the_same_and_holds_nothing_else():
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), "v": ones(3, 2), "u": ones(2, 2)}
    nodes = [node("MatMul", "x w", "a"), node("Tanh", "a", "b"), node("MatMul", "b v", "c"), node("MatMul", "c u", "y")]
    full = model(nodes, weights=weights)
    cut = Graph(full, "x").cut(["b"])
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(cut))
    assert [item.name for item in cut.graph.initializer] == ["w"]
    assert [item.op_type for item in cut.graph.node] == ["MatMul", "Tanh"]
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    assert np.allclose(ReferenceEvaluator(cut).run(None, {"x": x})[0], np.tanh(x @ weights["w"]), atol=1e-6)
    assert len(full.graph.node) == 4  # the model itself is left alone


def test_a_cut_keeps_what_a_branch_takes_from_outside():
    branches = [
        helper.make_graph([node("Mul", "a w", built)], built, [], [helper.make_tensor_value_info(built, FLOAT, None)])
        for built in ("yes", "no")
    ]
    choice = helper.make_node("If", ["condition"], ["y"], then_branch=branches[0], else_branch=branches[1])
    nodes = [node("Relu", "x", "a"), choice]
    weights = {"condition": np.array(True), "w": ones(1, 4), "unused": ones(2, 2)}
    item = Graph(model(nodes, weights=weights), "x")
    assert set(inputs_of(choice)) == {"condition", "a", "w"}
    assert item.depends == {"x", "a", "y"}
    cut = item.cut(["y"])
    assert {tensor.name for tensor in cut.graph.initializer} == {"condition", "w"}
    assert [remaining.op_type for remaining in cut.graph.node] == ["Relu", "If"]


def test_several_outputs_are_all_kept_once():
    nodes = [node("Relu", "x", "a"), node("Tanh", "a", "b"), node("Exp", "a", "c"), node("Add", "b c", "y")]
    cut = graph_of(nodes).cut(["a", "c", "a"])
    assert [value.name for value in cut.graph.output] == ["a", "c"]
    assert [item.op_type for item in cut.graph.node] == ["Relu", "Exp"]


def test_attributes_of_every_kind():
    item = node("Conv", "x w", "y", group=3, auto_pad="SAME_UPPER", strides=[2, 1])
    assert attribute(item, "group", 1) == 3
    assert attribute(item, "auto_pad", "NOTSET") == "SAME_UPPER"
    assert attribute(item, "strides", []) == [2, 1]
    assert attribute(item, "nothing", 7) == 7


# --- units: what lies between two gates ---


def ends(nodes, output="y"):
    return [unit.tensors[-1] for unit in graph_of(nodes).units(output)]


def test_activations_norms_and_biases_finish_what_came_before():
    nodes = [
        node("Conv", "x w", "a"),
        node("BatchNormalization", "a s b m v", "n"),
        node("Relu", "n", "r"),
        node("Conv", "r w", "c"),
        node("Add", "c bias", "d"),
        node("Sigmoid", "d", "g"),
        node("Mul", "d g", "y"),  # SiLU, written out
    ]
    assert ends(nodes) == ["r", "y"]


def test_a_residual_block_is_one_unit_that_joins():
    nodes = [
        node("Conv", "x w", "stem"),
        node("Conv", "stem w", "a"),
        node("Relu", "a", "b"),
        node("Conv", "b w", "c"),
        node("Add", "c stem", "sum"),
        node("Relu", "sum", "block"),
        node("GlobalAveragePool", "block", "y"),
    ]
    units = graph_of(nodes).units("y")
    assert [unit.tensors[-1] for unit in units] == ["stem", "block", "y"]
    assert [unit.joins for unit in units] == [False, True, False]


def test_attention_written_out_is_inside_one_unit():
    """Three products of one input meet again; the shape that a reshape asks for is no way around."""
    nodes = [
        node("MatMul", "x wq", "q"),
        node("MatMul", "x wk", "k"),
        node("MatMul", "x wv", "v"),
        node("Transpose", "k", "t", perm=[0, 2, 1]),
        node("MatMul", "q t", "scores"),
        node("Softmax", "scores", "weights"),
        node("MatMul", "weights v", "mixed"),
        node("Shape", "x", "sides"),
        node("Reshape", "mixed sides", "same"),
        node("Add", "same x", "y"),
    ]
    (unit,) = graph_of(nodes).units("y")
    assert unit.tensors == ("y",)
    assert unit.joins


def test_a_normalisation_written_out_belongs_to_its_unit_and_a_pooling_does_not():
    nodes = [
        node("MatMul", "x w", "a"),
        node("ReduceMean", "a axes", "mean"),
        node("Sub", "a mean", "centred"),
        node("Pow", "centred two", "square"),
        node("ReduceMean", "square axes", "variance"),
        node("Sqrt", "variance", "deviation"),
        node("Div", "centred deviation", "normed"),
        node("ReduceMean", "normed axes", "y"),
    ]
    assert ends(nodes) == ["normed", "y"]


def test_what_the_output_does_not_need_is_on_no_way():
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "aside"), node("MatMul", "a v", "y")]
    assert ends(nodes) == ["a", "y"]
    assert graph_of(nodes).units("w") == []


@pytest.mark.parametrize(
    ("last", "is_classifier"),
    [
        ([], True),
        ([("Add", "y0 bias")], True),
        ([("Add", "y0 bias"), ("Softmax", "y1")], True),
        ([("Sigmoid", "y0")], True),
        ([("Relu", "y0")], False),
        ([("Tanh", "y0")], False),
        ([("Add", "y0 bias"), ("Relu", "y1")], False),
    ],
)
def test_a_classifier_ends_dense_and_without_an_activation(last, is_classifier):
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("MatMul", "b v", "y0")]
    for i, (kind, values) in enumerate(last, 1):
        nodes.append(node(kind, values, f"y{i}"))
    output = f"y{len(last)}"
    network = OnnxBackend(model(nodes, outputs=(output,), weights={"w": ones(4, 4), "v": ones(4, 2)}), "made")
    assert (network.classifier() == "y0") is is_classifier


def test_a_single_dense_layer_is_no_classifier():
    network = OnnxBackend(model([node("MatMul", "x w", "y")], weights={"w": ones(4, 4)}), "made")
    assert network.classifier() is None


# --- which of a unit's tensors, and how many units ---


@pytest.mark.parametrize(
    ("shapes", "taken"),
    [
        ([(2, 8, 7, 7), (2, 392)], 0),  # a map rather than the same numbers in one row
        ([(2, 8, 1, 1), (2, 8)], 1),  # nothing is lost
        ([(2, 8, 5, 5), (2, 25, 8)], 1),  # tokens
        ([(2, 8)], 0),
        ([(2, 8, 5, 5), (2, 8, 5, 5)], 1),
    ],
)
def test_what_stands_for_a_unit(shapes, taken):
    names = [f"t{i}" for i in range(len(shapes))]
    assert representative(names, dict(zip(names, shapes))) == names[taken]


def test_few_are_kept_as_they_are_and_many_are_thinned_evenly():
    small = [f"t{i}" for i in range(18)]
    assert _evenly_spread(small, set()) == small
    large = [f"t{i}" for i in range(100)]
    remaining = _evenly_spread(large, set())
    places = [large.index(name) for name in remaining]
    assert len(remaining) == 18
    assert places == sorted(places)
    assert places[-1] == 99  # the last is always there
    assert max(np.diff([0, *places])) <= 9


@pytest.mark.parametrize("count", [4, 17, 18, 40])
def test_joins_go_first(count):
    large = [f"t{i}" for i in range(100)]
    joins = set(large[1 : 2 * count : 2])
    remaining = _evenly_spread(large, joins)
    assert len(remaining) == 18
    assert remaining[-1] == "t99" or count > 17
    assert joins <= set(remaining) if count < 18 else len(joins & set(remaining)) >= 17
    assert remaining == [name for name in large if name in remaining]


# --- networks that are none ---


def test_a_model_without_an_input_is_refused():
    built = model([node("Relu", "w", "y")], weights={"w": ones(2, 2)})
    del built.graph.input[:]
    with pytest.raises(SourceError, match="has no input"):
        OnnxBackend(built, "made")


def test_weights_that_are_listed_as_inputs_are_no_inputs():
    built = model([node("MatMul", "x w", "y")], weights={"w": ones(4, 2)})
    built.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 2]))
    assert list(OnnxBackend(built, "made").inputs) == ["x"]


@pytest.mark.parametrize(("side", "batch"), [("n", None), (3, 3), (1, 1), (0, None)])
def test_the_number_of_inputs_per_run(side, batch):
    network = OnnxBackend(model([node("Relu", "x", "y")], shape=(side, 4)), "made")
    assert network.batch == batch


def test_it_is_never_copied():
    backend = OnnxBackend(model([node("Relu", "x", "y")]), "made")
    assert backend.clone() is backend
    assert backend.to(RuntimeConfig("onnxruntime", "fp32")).model is backend.model
    assert backend.stamp() == backend.clone().stamp()
    assert backend.state_dict() == {}
