"""The check that the graph of a SavedModel does nothing but compute."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2

from supcon_tf.core.errors import UserError

# Operators that a graph may have: arithmetic, layers, images, strings, control flow and variables.
_ALLOWED = set(
    """
    Const Placeholder PlaceholderWithDefault Identity IdentityN NoOp StopGradient PreventGradient
    VarHandleOp ReadVariableOp DisableCopyOnRead ResourceGather ResourceGatherNd
    PartitionedCall StatefulPartitionedCall If StatelessIf While StatelessWhile Case StatelessCase
    Abs Add AddN AddV2 AccumulateNV2 Ceil ClipByValue Cos Cumprod Cumsum Div DivNoNan Einsum Elu Erf
    Erfc Exp Expm1 Floor FloorDiv FloorMod IsFinite IsInf IsNan L2Loss LeakyRelu Log Log1p MatMul
    BatchMatMul BatchMatMulV2 BatchMatMulV3 Maximum Minimum Mod Mul MulNoNan Neg Pow RealDiv
    Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Square
    SquaredDifference Sub Tan Tanh TruncateDiv Xdivy Xlogy
    All Any ArgMax ArgMin EuclideanNorm Max Mean Min Prod Sum TopK TopKV2 LowerBound UpperBound
    Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalNot LogicalOr Select
    SelectV2 Where
    Bitcast BroadcastArgs BroadcastTo Cast Concat ConcatV2 EnsureShape ExpandDims Fill Gather
    GatherNd GatherV2 InvertPermutation LinSpace MatrixBandPart MatrixDiag MirrorPad OneHot OnesLike
    Pack Pad PadV2 Range Rank Reshape Reverse ReverseV2 Roll ScatterNd Shape ShapeN Size Slice
    Snapshot Split SplitV Squeeze StridedSlice TensorScatterUpdate Tile Transpose Unpack ZerosLike
    AvgPool AvgPool3D BiasAdd BatchNormWithGlobalNormalization Conv2D Conv3D DepthwiseConv2dNative
    Dilation2D FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN LogSoftmax MaxPool MaxPool3D
    MaxPoolV2 Softmax SpaceToBatchND BatchToSpaceND SpaceToDepth DepthToSpace Conv2DBackpropInput
    AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize DecodeBmp DecodeGif DecodeImage
    DecodeJpeg DecodePng DecodeRaw HSVToRGB RGBToHSV ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor ScaleAndTranslate
    ReduceJoin StaticRegexFullMatch StringJoin StringLength Substr
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem TensorListStack
    """.split()  # noqa: SIM905
)
# The functions that save and restore the variables also have these.
_SAVER = {"AssignVariableOp", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


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
                f"bundle {bundle} is refused: its graph has the operator {operator}, which is not "
                "among those that a served model may have. Export it again from its run, or choose "
                "another encoder."
            )


def _forbidden(graph) -> Iterator[str]:
    """The operators of a meta graph that have no place there."""
    functions = {f.signature.name: f.node_def for f in graph.graph_def.library.function}
    saver = graph.saver_def
    ends = {saver.save_tensor_name.partition(":")[0], saver.restore_op_name}
    nodes = graph.graph_def.node
    of_saver = _reachable(functions, [n for n in nodes if n.name in ends], _called_functions)
    # Whatever else names a function may run it, on loading or on a request.
    roots = set(graph.object_graph_def.concrete_functions)
    for item in graph.object_graph_def.nodes:
        roots.add(item.bare_concrete_function.concrete_function_name)
        roots.update(item.function.concrete_functions)
    bodies = [node for name in roots for node in functions.get(name, ())]
    others = [node for node in nodes if node.name not in ends]
    served = roots | _reachable(functions, bodies + others, _named_functions)
    yield from (node.op for node in nodes if node.op not in _ALLOWED)
    for name, body in functions.items():
        allowed = _ALLOWED | _SAVER if name in of_saver - served else _ALLOWED
        yield from (node.op for node in body if node.op not in allowed)


def _called_functions(nodes: Iterable) -> set[str]:
    """The functions that nodes call, not those that they name in any other way."""
    return {node.attr["f"].func.name for node in nodes if node.op in _CALLS}


def _named_functions(nodes: Iterable) -> set[str]:
    """The functions that nodes name in any attribute."""
    attributes = [attribute for node in nodes for attribute in node.attr.values()]
    named = {attribute.func.name for attribute in attributes if attribute.HasField("func")}
    listed = {function.name for attribute in attributes for function in attribute.list.func}
    return named | listed


def _reachable(functions, nodes: Iterable, functions_of) -> set[str]:
    """The functions that nodes lead to, directly or through other functions."""
    found, new = set(), functions_of(nodes)
    while new:
        found |= new
        new = functions_of([node for name in new for node in functions.get(name, ())]) - found
    return found
