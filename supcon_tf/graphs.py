"""What the graph of a SavedModel may do: compute, and nothing else."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from supcon_tf.errors import UserError

# Of the operators with effects, those that read variables, call functions or draw numbers.
_EFFECTS = re.compile(
    r"VarHandleOp|ReadVariableOp|DisableCopyOnRead|ResourceGather(Nd)?|StatefulPartitionedCall"
    r"|While|If|Case|Assert|Placeholder|RandomUniform(Int)?|RandomStandardNormal|TruncatedNormal"
)
# Operators that TensorFlow declares free of effects although they reach files or Python.
_DISGUISED = re.compile(
    r"ReadFile|MatchingFiles|ImmutableConst|PyFuncStateless|(De|En)codeProto(V2)?"
    r"|GenerateVocabRemapping|.*Dataset.*"
)
_SAVER = re.compile(r"SaveV2|RestoreV2|MergeV2Checkpoints|AssignVariableOp")


def check_graph(bundle: Path) -> None:
    """Refuses a SavedModel whose graph does more than compute.

    It may not read or write files, run Python or reach other machines. Only the functions that save
    and restore the variables may touch a checkpoint, and no signature may call those.

    Args:
        bundle: folder of the SavedModel.

    Raises:
        UserError: naming the operator.
    """
    content = saved_model_pb2.SavedModel()
    try:
        content.ParseFromString((bundle / "saved_model.pb").read_bytes())
    except Exception as error:  # DecodeError, of whichever protobuf is installed.
        raise UserError(f"bundle {bundle} is damaged: saved_model.pb cannot be read.") from error
    for graph in content.meta_graphs:
        for operator in _forbidden(graph):
            raise UserError(
                f"bundle {bundle} is refused: its graph has the operator {operator}, which an "
                "exported model has no use for. Export it again from its run."
            )


def _forbidden(graph) -> Iterator[str]:
    """The operators of a meta graph that have no place there."""
    functions = {f.signature.name: f.node_def for f in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    saver = graph.saver_def
    names = (saver.save_tensor_name.partition(":")[0], saver.restore_op_name)
    of_saver = _reachable(functions, (nodes[name] for name in names if name in nodes))
    called = set(graph.object_graph_def.concrete_functions)
    for signature in graph.signature_def.values():
        ends = (output.name.partition(":")[0] for output in signature.outputs.values())
        called |= _calls(_behind(nodes, ends))
    served = called | _reachable(functions, (n for name in called for n in functions.get(name, ())))
    yield from (node.op for node in nodes.values() if not _is_harmless(node.op))
    for name, body in functions.items():
        is_saver = name in of_saver and name not in served
        for node in body:
            if not (_is_harmless(node.op) or (is_saver and _SAVER.fullmatch(node.op))):
                yield node.op


def _is_harmless(operator: str) -> bool:
    definition = op_def_registry.get(operator)
    if definition is None or _DISGUISED.fullmatch(operator):
        return False
    return not definition.is_stateful or bool(_EFFECTS.fullmatch(operator))


def _calls(nodes: Iterable) -> set[str]:
    """The functions that nodes name."""
    attributes = [attribute for node in nodes for attribute in node.attr.values()]
    named = {attribute.func.name for attribute in attributes if attribute.HasField("func")}
    listed = {function.name for attribute in attributes for function in attribute.list.func}
    return named | listed


def _reachable(functions, nodes: Iterable) -> set[str]:
    """The functions that nodes call, and those that these call."""
    found, new = set(), _calls(nodes)
    while new:
        found |= new
        new = _calls(node for name in new for node in functions.get(name, ())) - found
    return found


def _behind(nodes, names: Iterable[str]) -> list:
    """The nodes of those names, and all that they take their inputs from."""
    found, new = {}, set(names)
    while new:
        found |= {name: nodes[name] for name in new if name in nodes}
        inputs = (source for name in new if name in nodes for source in nodes[name].input)
        new = {source.lstrip("^").partition(":")[0] for source in inputs} - set(found)
        new &= set(nodes)
    return list(found.values())
