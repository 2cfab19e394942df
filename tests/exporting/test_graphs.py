"""Graphs that do more than compute are refused."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from supcon_tf import UserError
from supcon_tf.exporting.graphs import check_graph


def _module(function, kind=tf.string):
    made = tf.Module()
    made.run = tf.function(function, input_signature=[tf.TensorSpec([], kind)])
    return made


def _save(path):
    tf.raw_ops.SaveV2(
        prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1)]
    )
    return path


def _restore(path):
    (found,) = tf.raw_ops.RestoreV2(
        prefix=path, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.int32]
    )
    return found


def _print(text):
    tf.print(text, output_stream="file:///tmp/printed")
    return text


def _immutable(text):
    return tf.raw_ops.ImmutableConst(dtype=tf.int32, shape=[1], memory_region_name="/etc/passwd")


def _debug(x):
    return tf.raw_ops.DebugIdentity(input=x, tensor_name="x", debug_urls=["file:///tmp/debug"])


REACHING = {
    "DebugIdentity": _module(_debug, tf.float32),
    "ReadFile": _module(tf.io.read_file),
    "MatchingFiles": _module(tf.io.matching_files),
    "SaveV2": _module(_save),
    "RestoreV2": _module(_restore),
    "PrintV2": _module(_print),
    "ImmutableConst": _module(_immutable),
    "PyFunc": _module(lambda x: tf.numpy_function(np.sin, [x], tf.float32), tf.float32),
    "EagerPyFunc": _module(lambda x: tf.py_function(tf.sin, [x], tf.float32), tf.float32),
}


@pytest.mark.parametrize("operator", REACHING)
@pytest.mark.parametrize("as_signature", [True, False])
def test_graphs_that_reach_files_or_python_are_refused(tmp_path, operator, as_signature):
    made = REACHING[operator]
    signatures = {"serving_default": made.run} if as_signature else None
    tf.saved_model.save(made, str(tmp_path), signatures=signatures)
    with pytest.raises(UserError, match=f"has the operator {operator}"):
        check_graph(tmp_path)


def test_a_saver_that_a_signature_calls_is_refused(exported, tmp_path):
    """The functions that save and restore are let through only where nothing else calls them."""
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((exported[1] / "1/saved_model.pb").read_bytes())
    graph = content.meta_graphs[0]
    nodes = {node.name: node for node in graph.graph_def.node}
    saver = nodes[graph.saver_def.save_tensor_name.partition(":")[0]]
    caller = next(f for f in graph.graph_def.library.function if "encode" in f.signature.name)
    caller.node_def.add(name="extra", op="StatefulPartitionedCall").attr[
        "f"
    ].func.name = saver.attr["f"].func.name
    (tmp_path / "saved_model.pb").write_bytes(content.SerializeToString())
    with pytest.raises(UserError, match="has the operator (SaveV2|MergeV2Checkpoints|Sharded)"):
        check_graph(tmp_path)


def _evil_bundle(exported, name_it):
    """A bundle with a function that writes a checkpoint, and whatever makes it be called."""
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((exported[1] / "1/saved_model.pb").read_bytes())
    graph = content.meta_graphs[0]
    library = graph.graph_def.library
    save = next(f for f in library.function if "traced_save" in f.signature.name)
    evil = library.function.add()
    evil.CopyFrom(save)
    evil.signature.name = "__inference__traced_save_evil"
    # A saver's function names it, but does not call it.
    save.node_def.add(name="bait", op="NoOp").attr["_x"].func.name = evil.signature.name
    name_it(graph, evil.signature.name)
    return content.SerializeToString()


def _as_initializer(graph, name):
    node = graph.object_graph_def.nodes.add()
    node.bare_concrete_function.concrete_function_name = name


def _as_polymorphic_function(graph, name):
    graph.object_graph_def.nodes.add().function.concrete_functions.append(name)


def _nowhere(graph, name):
    """It is not the saver's all the same."""


@pytest.mark.parametrize("name_it", [_as_initializer, _as_polymorphic_function, _nowhere])
def test_what_is_not_called_by_the_saver_may_not_save(exported, tmp_path, name_it):
    (tmp_path / "saved_model.pb").write_bytes(_evil_bundle(exported, name_it))
    with pytest.raises(UserError, match="has the operator (SaveV2|MergeV2Checkpoints|Sharded)"):
        check_graph(tmp_path)
