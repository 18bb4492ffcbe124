// Sentences that several ops share.
#pragma once

#include <cmath>
#include <string>

#include "qdbev/op.h"

namespace qdbev {

[[noreturn]] inline void refuse(const OpSpec& op, const std::string& sentence)
{
    throw Refusal(std::string(op.name) + ": " + sentence);
}

inline void require(const OpSpec& op, bool condition, const char* sentence)
{
    if (!condition) {
        refuse(op, sentence);
    }
}

inline void check_scales(const OpSpec& op, const Attributes& attributes)
{
    for (const char* name : {"value_scale", "output_scale"}) {
        const float scale = attributes.float_value(name);
        if (scale < 0.0F || (scale > 0.0F && !std::isnormal(scale))) {
            refuse(op, std::string("field '") + name + "' is " + std::to_string(scale)
                    + "; it must be a positive number for int8, or 0 for floating point.");
        }
    }
}

// A scale of 1 where the tensor is floating point, so that kernels need no branch.
inline float scale_or_one(const Attributes& attributes, const char* name)
{
    const float scale = attributes.float_value(name);
    return scale > 0.0F ? scale : 1.0F;
}

inline void expect_shape(const OpSpec& op, const TensorDesc* inputs, int32_t index, std::initializer_list<int64_t> shape)
{
    TensorDesc expected;
    for (const int64_t extent : shape) {
        expected.dims[expected.rank++] = extent;
    }
    for (int32_t i = 0; i < expected.rank; ++i) {
        if (inputs[index].dims[i] != expected.dims[i]) {
            refuse(op, std::string("input '") + op.inputs[index].name + "' has shape " + shape_text(inputs[index])
                    + "; the other inputs and the fields ask for " + shape_text(expected) + ".");
        }
    }
}

}  // namespace qdbev
