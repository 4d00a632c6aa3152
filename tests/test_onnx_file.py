"""ONNX files whose weights lie elsewhere: in attributes, branches, half bytes, pieces; and places that are lies."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from headstart.errors import UnsafeFile, WeightsError  # noqa: E402
from headstart.sources.onnx import file  # noqa: E402
from headstart.sources.onnx.file import parse_model, read_model  # noqa: E402

FLOAT = TensorProto.FLOAT


def outside(name, array, *, location="w.bin", offset=None, length=None, kind=None):
    """A tensor that says its bytes are in another file."""
    tensor = numpy_helper.from_array(array, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    if kind is not None:
        tensor.data_type = kind
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return tensor


def saved(path, nodes, weights=()):
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        list(weights),
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(built.SerializeToString())
    return path


ADD = [helper.make_node("Add", ["x", "w"], ["y"])]
ROW = np.arange(4, dtype=np.float32)


def test_pieces_of_one_file(tmp_path):
    second = np.arange(8, dtype=np.float32).reshape(2, 4)
    (tmp_path / "w.bin").write_bytes(bytes(64) + ROW.tobytes() + second.tobytes())
    weights = [outside("w", ROW, offset=64, length=16), outside("v", second, offset=80, length=32)]
    model, content = read_model(saved(tmp_path / "m.onnx", ADD, weights))
    result = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(result["w"], ROW)
    assert np.array_equal(result["v"], second)
    again = parse_model(content, "a copy")  # the bytes hold everything
    assert np.array_equal(numpy_helper.to_array(again.graph.initializer[1]), second)


def test_a_file_that_holds_everything_is_kept_byte_by_byte(tmp_path):
    path = saved(tmp_path / "m.onnx", ADD, [numpy_helper.from_array(ROW, "w")])
    assert read_model(path)[1] == path.read_bytes()


def test_weights_in_folders_below(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(ROW.tobytes())
    path = saved(tmp_path / "m.onnx", ADD, [outside("w", ROW, location="weights/w.bin")])
    assert np.array_equal(numpy_helper.to_array(read_model(path)[0].graph.initializer[0]), ROW)


def test_constants_and_branches_are_looked_at_too(tmp_path):
    """A path to another place hidden in a constant, or inside a branch, is found there."""
    hidden = outside("c", ROW, location="../elsewhere.bin")
    constant = helper.make_node("Constant", [], ["c"], value=hidden)
    with pytest.raises(UnsafeFile, match=r"elsewhere\.bin"):
        read_model(saved(tmp_path / "c.onnx", [constant, helper.make_node("Add", ["x", "c"], ["y"])]))
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", FLOAT, None)],
        [hidden],
    )
    choice = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(UnsafeFile, match=r"elsewhere\.bin"):
        read_model(saved(tmp_path / "b.onnx", [choice]))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_half_bytes(kind, tmp_path):
    (tmp_path / "w.bin").write_bytes(b"\x21\x03")
    tensor = outside("w", np.zeros(3, np.int8), kind=kind)
    model, _ = read_model(saved(tmp_path / "m.onnx", ADD, [tensor]))
    assert model.graph.initializer[0].raw_data == b"\x21\x03"


def test_a_type_that_nobody_knows(tmp_path):
    with pytest.raises(WeightsError, match="no type that is known: 99"):
        read_model(saved(tmp_path / "m.onnx", ADD, [outside("w", ROW, kind=99)]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 15}, "need 16 bytes, but the file says 15"),
        ({"length": 1 << 40}, "need 16 bytes, but the file says"),
        ({"offset": 1}, "too short for the weights 'w'"),
        ({"offset": 1 << 60}, "too short for the weights 'w'"),
        ({"offset": "0x10"}, "must be a whole number"),
        ({"offset": "-4"}, "must be a whole number"),
    ],
)
def test_places_that_cannot_be(fields, message, tmp_path):
    (tmp_path / "w.bin").write_bytes(ROW.tobytes())
    with pytest.raises(WeightsError, match=message):
        read_model(saved(tmp_path / "m.onnx", ADD, [outside("w", ROW, **fields)]))


def test_a_shape_of_terabytes_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(16))
    tensor = outside("w", ROW)
    tensor.dims[:] = [1 << 20, 1 << 20]
    with pytest.raises(WeightsError, match="up to 2 GiB"):
        read_model(saved(tmp_path / "m.onnx", ADD, [tensor]))


def test_files_beyond_the_limit(tmp_path, monkeypatch):
    path = saved(tmp_path / "m.onnx", ADD, [numpy_helper.from_array(ROW, "w")])
    monkeypatch.setattr(file, "_MOST_BYTES", 10)
    with pytest.raises(WeightsError, match="end at 2 GiB"):
        read_model(path)


def test_negative_sides_hold_nothing(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"")
    tensor = outside("w", ROW)
    tensor.dims[:] = [-4]
    model, _ = read_model(saved(tmp_path / "m.onnx", ADD, [tensor]))
    assert model.graph.initializer[0].raw_data == b""


def test_folders_and_devices_are_no_files(tmp_path):
    with pytest.raises(WeightsError, match="no ONNX file"):
        read_model(tmp_path)
    (tmp_path / "w.bin").mkdir()
    with pytest.raises(WeightsError, match="which is not in"):
        read_model(saved(tmp_path / "m.onnx", ADD, [outside("w", ROW)]))


def with_functions(*functions):
    """A model that calls the last of these functions; each is (name, names of what it calls, one after the other)."""
    built = []
    for name, called in functions:
        chain = [f"t{i}" for i in range(len(called))]
        nodes = [
            helper.make_node(kind, [before], [after], domain="my" if kind.startswith("f") else "")
            for kind, before, after in zip(called, ["a", *chain], chain)
        ]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
        built.append(helper.make_function("my", name, ["a"], [chain[-1]], nodes, opsets))
    graph = helper.make_graph(
        [helper.make_node(functions[-1][0], ["x"], ["y"], domain="my")],
        "made",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 4])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=built, ir_version=9).SerializeToString()


def test_functions_in_functions_are_written_out():
    model = parse_model(with_functions(("f0", ["Relu"]), ("f1", ["f0", "Tanh", "f0"])), "a file")
    assert [node.op_type for node in model.graph.node] == ["Relu", "Tanh", "Relu"]
    assert not model.functions


@pytest.mark.parametrize(
    "functions", [[("f0", ["f0"])], [("f0", ["Relu", "f1"]), ("f1", ["f0"])]], ids=["itself", "in a circle"]
)
def test_functions_that_call_themselves_have_no_end(functions):
    with pytest.raises(WeightsError, match="calls itself"):
        parse_model(with_functions(*functions), "a file")


def test_a_few_lines_that_would_be_billions_of_nodes():
    doubling = [("f0", ["Relu", "Relu"]), *((f"f{i}", [f"f{i - 1}"] * 2) for i in range(1, 40))]
    with pytest.raises(WeightsError, match="more than 1,000,000 nodes"):
        parse_model(with_functions(*doubling), "a file")


def test_very_deep_functions():
    deep = [("f0", ["Relu"]), *((f"f{i}", [f"f{i - 1}"]) for i in range(1, 200))]
    with pytest.raises(WeightsError, match="too deep"):
        parse_model(with_functions(*deep), "a file")
