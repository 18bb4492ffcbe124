"""What each target parses: opset, ops, element types. The ops are those of the parsers' own operator lists."""

from __future__ import annotations

from dataclasses import dataclass

from qdbev_deploy.errors import QdbevError

# onnx-tensorrt 8.6-GA, docs/operators.md: everything supported there, whatever the restrictions.
_OP_NAMES_8_6 = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool
GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization GRU HardSigmoid HardSwish
Identity If ImageScaler InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax Loop LpNormalization LpPool LRN LSTM MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul
Neg NonMaxSuppression NonZero Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal
RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN
RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu
Unsqueeze Upsample Where Xor
"""
_TENSORRT_8_6 = frozenset(_OP_NAMES_8_6.split())
# What 10.1-GA added; the newest list that was read. Later releases parse at least as much.
_TENSORRT_10 = _TENSORRT_8_6 | {"CastLike", "DeformConv", "Gelu", "Hardmax", "Mish"}


@dataclass(frozen=True)
class Target:
    """A runtime line. `ops` None: whatever ONNX defines up to `max_opset`."""

    name: str
    is_tensorrt: bool
    max_opset: int
    ops: frozenset[str] | None
    element_types: frozenset[str]


_TENSORRT_TYPES = frozenset({"float", "float16", "int8", "int32", "int64", "bool", "uint8", "int4"})

TARGETS = {
    target.name: target
    for target in (
        Target("trt8.6", True, 17, _TENSORRT_8_6, _TENSORRT_TYPES - {"int4"}),
        Target("trt10.3", True, 20, _TENSORRT_10, _TENSORRT_TYPES | {"bfloat16"}),
        Target("trt11", True, 24, _TENSORRT_10, _TENSORRT_TYPES | {"bfloat16"}),
        Target("ort", False, 23, None, _TENSORRT_TYPES | {"bfloat16", "double", "uint4", "int16", "uint16"}),
    )
}


def target_named(name: str) -> Target:
    if name not in TARGETS:
        raise QdbevError(f"unknown target '{name}'", "one of " + ", ".join(TARGETS), "pass --target trt10.3")
    return TARGETS[name]
