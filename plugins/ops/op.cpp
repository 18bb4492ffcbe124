// What all ops have in common: types, output shapes, and the order in which things are checked.
#include "qdbev/op.h"

#include <cstring>
#include <limits>

namespace qdbev {

extern const OpSpec kMsDeformAttn;
extern const OpSpec kTemporalSelfAttn;
extern const OpSpec kSpatialCrossAttn;
extern const OpSpec kModulatedDeformSample;

const OpSpec* const kOps[] = {&kMsDeformAttn, &kTemporalSelfAttn, &kSpatialCrossAttn, &kModulatedDeformSample};
const int32_t kOpCount = static_cast<int32_t>(sizeof kOps / sizeof kOps[0]);

const OpSpec* find_op(const char* name)
{
    for (const OpSpec* op : kOps) {
        if (name != nullptr && std::strcmp(op->name, name) == 0) {
            return op;
        }
    }
    return nullptr;
}

const char* type_name(DType type)
{
    switch (type) {
    case DType::kF32: return "float32";
    case DType::kF16: return "float16";
    case DType::kI8: break;
    }
    return "int8";
}

std::string shape_text(const TensorDesc& tensor)
{
    std::string text = "[";
    for (int32_t i = 0; i < tensor.rank; ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(tensor.dims[i]);
    }
    return text + "]";
}

Attributes OpSpec::parse_attributes(const void* data, size_t size) const
{
    Attributes attributes = Attributes::parse(name, fields, field_count, data, size);
    check(*this, attributes);
    return attributes;
}

namespace {

bool is_float(DType type)
{
    return type == DType::kF32 || type == DType::kF16;
}

int32_t first_of(const OpSpec& op, Role role)
{
    for (int32_t i = 0; i < op.input_count; ++i) {
        if (op.inputs[i].role == role) {
            return i;
        }
    }
    return -1;
}

}  // namespace

bool supports_type(const OpSpec& op, const Attributes& attributes, int32_t position, const DType* types)
{
    const DType type = types[position];
    if (position == op.input_count) {
        return attributes.float_value("output_scale") > 0.0F ? type == DType::kI8 : is_float(type);
    }
    switch (op.inputs[position].role) {
    case Role::kValue: return attributes.float_value("value_scale") > 0.0F ? type == DType::kI8 : is_float(type);
    case Role::kAux: return is_float(type) && type == types[first_of(op, Role::kAux)];
    case Role::kFp32: break;
    }
    return type == DType::kF32;
}

DType default_output_type(const OpSpec& op, const Attributes& attributes, const DType* input_types)
{
    if (attributes.float_value("output_scale") > 0.0F) {
        return DType::kI8;
    }
    const DType value = input_types[first_of(op, Role::kValue)];
    return value == DType::kI8 ? input_types[first_of(op, Role::kAux)] : value;
}

TensorDesc output_of(const OpSpec& op, const TensorDesc* inputs, DType type)
{
    TensorDesc output;
    output.type = type;
    output.rank = op.output_rank;
    for (int32_t i = 0; i < op.output_rank; ++i) {
        const OutputDim& dim = op.output_dims[i];
        output.dims[i] = inputs[dim.input[0]].dims[dim.dim[0]];
        if (dim.input[1] >= 0) {
            output.dims[i] *= inputs[dim.input[1]].dims[dim.dim[1]];
        }
    }
    return output;
}

Params prepare(const OpSpec& op, const Attributes& attributes, const TensorDesc* inputs, const void* const* data,
    const TensorDesc& output, void* out)
{
    DType types[kMaxInputs + 1];
    for (int32_t i = 0; i < op.input_count; ++i) {
        const InputSpec& spec = op.inputs[i];
        types[i] = inputs[i].type;
        if (inputs[i].rank != spec.rank) {
            throw Refusal(std::string(op.name) + ": input '" + spec.name + "' has shape " + shape_text(inputs[i]) + "; "
                + std::to_string(spec.rank) + " dimensions are needed.");
        }
        for (int32_t j = 0; j < spec.rank; ++j) {
            if (inputs[i].dims[j] < 1 || inputs[i].dims[j] > std::numeric_limits<int32_t>::max()) {
                throw Refusal(std::string(op.name) + ": input '" + spec.name + "' has shape " + shape_text(inputs[i])
                    + "; every extent must be from 1 to 2^31 - 1.");
            }
        }
        if (!supports_type(op, attributes, i, types)) {
            throw Refusal(std::string(op.name) + ": input '" + spec.name + "' is " + type_name(types[i])
                + (spec.role == Role::kFp32       ? "; it must be float32."
                        : spec.role == Role::kAux ? "; it must be float32 or float16, the same for all offsets, logits and masks."
                                                  : "; it must be int8 where value_scale > 0 and float32 or float16 where it is 0."));
        }
        if (data[i] == nullptr) {
            throw Refusal(std::string(op.name) + ": input '" + spec.name + "' has no data.");
        }
    }
    types[op.input_count] = output.type;
    if (!supports_type(op, attributes, op.input_count, types)) {
        throw Refusal(std::string(op.name) + ": the output is " + type_name(output.type)
            + "; it must be int8 where output_scale > 0 and float32 or float16 where it is 0.");
    }
    const TensorDesc expected = output_of(op, inputs, output.type);
    bool same = output.rank == expected.rank;
    for (int32_t i = 0; same && i < expected.rank; ++i) {
        same = output.dims[i] == expected.dims[i];
    }
    if (!same) {
        throw Refusal(std::string(op.name) + ": the output has shape " + shape_text(output) + "; the inputs make "
            + shape_text(expected) + ".");
    }
    if (out == nullptr) {
        throw Refusal(std::string(op.name) + ": the output has no data.");
    }
    Params params = op.bind(op, attributes, inputs, data, out);
    std::visit(
        [&](auto& p) {
            if constexpr (std::is_same_v<std::decay_t<decltype(p)>, DeformSampleParams>) {
                p.out_type = output.type;
            } else {
                p.attention.out_type = output.type;
            }
        },
        params);
    return params;
}

void check_tensors(const OpSpec& op, const Attributes& attributes, const TensorDesc* inputs, const TensorDesc& output)
{
    alignas(16) static char nowhere[16];  // an address that is never followed
    const void* data[kMaxInputs];
    for (const void*& pointer : data) {
        pointer = nowhere;
    }
    static_cast<void>(prepare(op, attributes, inputs, data, output, nowhere));
}

}  // namespace qdbev
