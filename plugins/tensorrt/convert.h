// Between TensorRT's types and ours: data types, shapes, fields. The same for both plugin interfaces.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "NvInferRuntime.h"
#include "qdbev/op.h"

namespace qdbev::trt {

inline bool is_ours(nvinfer1::DataType type)
{
    return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF || type == nvinfer1::DataType::kINT8;
}

inline DType to_dtype(nvinfer1::DataType type)
{
    switch (type) {
    case nvinfer1::DataType::kFLOAT: return DType::kF32;
    case nvinfer1::DataType::kHALF: return DType::kF16;
    case nvinfer1::DataType::kINT8: return DType::kI8;
    default: break;
    }
    throw Refusal("a tensor is of a type other than float32, float16 and int8.");
}

inline nvinfer1::DataType to_trt(DType type)
{
    switch (type) {
    case DType::kF32: return nvinfer1::DataType::kFLOAT;
    case DType::kF16: return nvinfer1::DataType::kHALF;
    case DType::kI8: break;
    }
    return nvinfer1::DataType::kINT8;
}

inline TensorDesc to_desc(const nvinfer1::PluginTensorDesc& tensor)
{
    TensorDesc desc;
    desc.type = to_dtype(tensor.type);
    desc.rank = tensor.dims.nbDims;
    if (desc.rank < 0 || desc.rank > kMaxRank) {
        throw Refusal("a tensor has " + std::to_string(desc.rank) + " dimensions.");
    }
    for (int32_t i = 0; i < desc.rank; ++i) {
        desc.dims[i] = tensor.dims.d[i];
    }
    return desc;
}

// Whether something of the shape is not known yet.
inline bool is_open(const nvinfer1::PluginTensorDesc& tensor)
{
    for (int32_t i = 0; i < tensor.dims.nbDims; ++i) {
        if (tensor.dims.d[i] < 0) {
            return true;
        }
    }
    return false;
}

inline void require_counts(const OpSpec& op, int32_t inputs, int32_t outputs)
{
    if (inputs != op.input_count || outputs != 1) {
        throw Refusal(std::string(op.name) + ": " + std::to_string(inputs) + " inputs and " + std::to_string(outputs)
            + " outputs; " + std::to_string(op.input_count) + " and 1 are needed.");
    }
}

// Whether tensor `position` of in_out may have the type and format it has, the earlier ones being decided. Types that
// are not ours end the matter; everything is dense and row major.
//
// At the output, the last to be asked about, the shapes are held against the fields where all of them are known: of the
// older interface's methods this is the only one that can refuse them before an engine is built.
template <typename DescOf>
bool supports_format(const OpSpec& op, const Attributes& attributes, int32_t position, DescOf&& desc_of)
{
    DType types[kMaxInputs + 1];
    for (int32_t i = 0; i <= position; ++i) {
        if (!is_ours(desc_of(i).type)) {
            return false;
        }
        types[i] = to_dtype(desc_of(i).type);
    }
    if (desc_of(position).format != nvinfer1::TensorFormat::kLINEAR || !supports_type(op, attributes, position, types)) {
        return false;
    }
    if (position == op.input_count) {
        TensorDesc descs[kMaxInputs];
        for (int32_t i = 0; i < op.input_count; ++i) {
            if (desc_of(i).dims.nbDims < 1 || is_open(desc_of(i))) {
                return true;
            }
            descs[i] = to_desc(desc_of(i));
        }
        check_tensors(op, attributes, descs, output_of(op, descs, types[position]));
    }
    return true;
}

// The output's type. An int8 value without its scale can only be a mistake, and no format that is asked about later
// would say so: they would all be unsupported.
inline nvinfer1::DataType output_type(
    const OpSpec& op, const Attributes& attributes, const nvinfer1::DataType* inputs, int32_t count, int32_t outputs)
{
    require_counts(op, count, outputs);
    DType types[kMaxInputs];
    for (int32_t i = 0; i < count; ++i) {
        types[i] = to_dtype(inputs[i]);
        if (op.inputs[i].role == Role::kValue && types[i] == DType::kI8 && !(attributes.float_value("value_scale") > 0.0F)) {
            throw Refusal(std::string(op.name) + ": input '" + op.inputs[i].name
                + "' is int8 and field 'value_scale' is 0; give it the scale of the QuantizeLinear before the plugin.");
        }
    }
    return to_trt(default_output_type(op, attributes, types));
}

// Refuses shapes that do not fit. Shapes that are still open are checked when they are known, at the first enqueue.
template <typename DescOf>
void check_descs(const OpSpec& op, const Attributes& attributes, DescOf&& input_of, const nvinfer1::PluginTensorDesc& output)
{
    TensorDesc descs[kMaxInputs];
    for (int32_t i = 0; i < op.input_count; ++i) {
        if (is_open(input_of(i))) {
            return;
        }
        descs[i] = to_desc(input_of(i));
    }
    if (!is_open(output)) {
        check_tensors(op, attributes, descs, to_desc(output));
    }
}

inline nvinfer1::DimsExprs output_expressions(
    const OpSpec& op, const nvinfer1::DimsExprs* inputs, nvinfer1::IExprBuilder& builder)
{
    for (int32_t i = 0; i < op.input_count; ++i) {
        if (inputs[i].nbDims != op.inputs[i].rank) {
            throw Refusal(std::string(op.name) + ": input '" + op.inputs[i].name + "' has "
                + std::to_string(inputs[i].nbDims) + " dimensions; " + std::to_string(op.inputs[i].rank) + " are needed.");
        }
    }
    nvinfer1::DimsExprs output{};
    output.nbDims = op.output_rank;
    for (int32_t i = 0; i < op.output_rank; ++i) {
        const OutputDim& dim = op.output_dims[i];
        output.d[i] = inputs[dim.input[0]].d[dim.dim[0]];
        if (dim.input[1] >= 0) {
            output.d[i] = builder.operation(
                nvinfer1::DimensionOperation::kPROD, *output.d[i], *inputs[dim.input[1]].d[dim.dim[1]]);
        }
    }
    return output;
}

template <typename Element, typename Wide>
std::vector<Wide> widened(const nvinfer1::PluginField& field)
{
    std::vector<Wide> values(static_cast<size_t>(field.length));
    for (size_t i = 0; i < values.size(); ++i) {
        Element element;  // the address need not be aligned
        std::memcpy(&element, static_cast<const char*>(field.data) + i * sizeof element, sizeof element);
        values[i] = static_cast<Wide>(element);
    }
    return values;
}

inline void set_field(const OpSpec& op, Attributes& attributes, const nvinfer1::PluginField& field)
{
    const std::string name = field.name == nullptr ? "" : field.name;
    if (field.length < 1 || field.data == nullptr) {
        throw Refusal(std::string(op.name) + ": field '" + name + "' is empty.");
    }
    // 64-bit integers and doubles came with later parsers.
    constexpr auto kInt64 = static_cast<nvinfer1::PluginFieldType>(10);
    if (field.type == nvinfer1::PluginFieldType::kINT32) {
        attributes.set_ints(field.name, widened<int32_t, int64_t>(field).data(), field.length);
    } else if (field.type == kInt64) {
        attributes.set_ints(field.name, widened<int64_t, int64_t>(field).data(), field.length);
    } else if (field.type == nvinfer1::PluginFieldType::kFLOAT32) {
        attributes.set_floats(field.name, widened<float, double>(field).data(), field.length);
    } else if (field.type == nvinfer1::PluginFieldType::kFLOAT64) {
        attributes.set_floats(field.name, widened<double, double>(field).data(), field.length);
    } else {
        throw Refusal(std::string(op.name) + ": field '" + name + "' has TensorRT's field type "
            + std::to_string(static_cast<int32_t>(field.type)) + "; 32- or 64-bit integers or floats are needed.");
    }
}

inline Attributes parse_fields(const OpSpec& op, const nvinfer1::PluginFieldCollection* fields)
{
    Attributes attributes = op.new_attributes();
    for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
        set_field(op, attributes, fields->fields[i]);
    }
    attributes.finish();
    op.check(op, attributes);
    return attributes;
}

// The fields that a creator declares; the ONNX parser reads a node's attributes by them.
inline std::vector<nvinfer1::PluginField> declared_fields(const OpSpec& op)
{
    std::vector<nvinfer1::PluginField> fields;
    for (int32_t i = 0; i < op.field_count; ++i) {
        const auto type = op.fields[i].is_float() ? nvinfer1::PluginFieldType::kFLOAT32 : nvinfer1::PluginFieldType::kINT32;
        fields.emplace_back(op.fields[i].name, nullptr, type, 1);
    }
    return fields;
}

inline int32_t enqueue(const OpSpec& op, const Attributes& attributes, const nvinfer1::PluginTensorDesc* input_descs,
    const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs, void* const* outputs, cudaStream_t stream)
{
    TensorDesc descs[kMaxInputs];
    for (int32_t i = 0; i < op.input_count; ++i) {
        descs[i] = to_desc(input_descs[i]);
    }
    const Params params = prepare(op, attributes, descs, inputs, to_desc(output_descs[0]), outputs[0]);
    const int result = launch(op, params, stream);
    if (result != 0) {
        throw Refusal(std::string(op.name) + ": " + describe_launch_error(result) + ".");
    }
    return 0;
}

}  // namespace qdbev::trt
