// A small valid call of each op, for tests that are about everything but its numbers.
#pragma once

#include <random>
#include <vector>

#include "qdbev/host.h"
#include "qdbev/op.h"

namespace cases {

using namespace qdbev;

struct Case {
    const OpSpec* op = nullptr;
    TensorDesc inputs[kMaxInputs];
    std::vector<std::vector<int64_t>> int_fields;    // in the order of the op's fields; empty: not given
    std::vector<std::vector<double>> float_fields;

    Attributes attributes() const
    {
        Attributes result = op->new_attributes();
        for (int32_t i = 0; i < op->field_count; ++i) {
            const auto at = static_cast<size_t>(i);
            if (!int_fields[at].empty()) {
                result.set_ints(op->fields[i].name, int_fields[at].data(), static_cast<int32_t>(int_fields[at].size()));
            }
            if (!float_fields[at].empty()) {
                result.set_floats(op->fields[i].name, float_fields[at].data(), static_cast<int32_t>(float_fields[at].size()));
            }
        }
        result.finish();
        op->check(*op, result);
        return result;
    }

    TensorDesc output(DType type) const { return output_of(*op, inputs, type); }

    void set_float(const char* name, double value)
    {
        for (int32_t i = 0; i < op->field_count; ++i) {
            if (std::string(op->fields[i].name) == name) {
                float_fields[static_cast<size_t>(i)] = {value};
            }
        }
    }
};

inline TensorDesc tensor(DType type, std::initializer_list<int64_t> dims)
{
    TensorDesc desc;
    desc.type = type;
    for (const int64_t extent : dims) {
        desc.dims[desc.rank++] = extent;
    }
    return desc;
}

inline Case make(const OpSpec& op, DType value, DType aux)
{
    Case c;
    c.op = &op;
    c.int_fields.resize(static_cast<size_t>(op.field_count));
    c.float_fields.resize(static_cast<size_t>(op.field_count));
    const std::string name = op.name;
    if (name == "MSDeformAttn") {
        c.int_fields[0] = {4, 5, 2, 3};
        c.inputs[0] = tensor(value, {2, 26, 4, 32});
        c.inputs[1] = tensor(DType::kF32, {2, 7, 2});
        c.inputs[2] = tensor(aux, {2, 7, 4, 2, 4, 2});
        c.inputs[3] = tensor(aux, {2, 7, 4, 8});
    } else if (name == "TemporalSelfAttn") {
        c.int_fields[0] = {3};
        c.int_fields[1] = {5};
        c.inputs[0] = tensor(value, {2, 15, 4, 32});
        c.inputs[1] = tensor(DType::kF32, {2, 15, 2});
        c.inputs[2] = tensor(aux, {15, 4, 2, 4, 2});
        c.inputs[3] = tensor(aux, {15, 4, 2, 4});
    } else if (name == "SpatialCrossAttn") {
        c.int_fields[0] = {4, 5, 2, 3};
        c.int_fields[1] = {3};
        c.int_fields[2] = {5};
        c.float_fields[3] = {-8, -8, -5, 8, 8, 3};
        c.float_fields[4] = {-1, 1};
        c.int_fields[5] = {16};
        c.int_fields[6] = {20};
        c.inputs[0] = tensor(value, {6, 26, 4, 32});
        c.inputs[1] = tensor(DType::kF32, {6, 4, 4});
        c.inputs[2] = tensor(aux, {15, 4, 2, 4, 2});
        c.inputs[3] = tensor(aux, {15, 4, 8});
    } else {
        c.int_fields[0] = {3, 3};
        c.int_fields[1] = {1, 1};
        c.int_fields[2] = {1, 1};
        c.int_fields[3] = {1, 1};
        c.inputs[0] = tensor(value, {2, 33, 5, 7});
        c.inputs[1] = tensor(aux, {2, 18, 5, 7});
        c.inputs[2] = tensor(aux, {2, 9, 5, 7});
    }
    if (value == DType::kI8) {
        c.set_float("value_scale", 0.05);
    }
    return c;
}

// Random contents, at `shift` elements past a 16-byte boundary.
class Data {
public:
    explicit Data(const Case& c, size_t shift = 0)
    {
        std::mt19937 random(7);
        std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
        for (int32_t i = 0; i < c.op->input_count; ++i) {
            const TensorDesc& desc = c.inputs[i];
            auto& memory = memory_[i];
            char* at = place(memory, desc, shift);
            for (int64_t j = 0; j < count_of(desc); ++j) {
                const float v = uniform(random);
                if (desc.type == DType::kF32) {
                    reinterpret_cast<float*>(at)[j] = v;
                } else if (desc.type == DType::kF16) {
                    reinterpret_cast<Half*>(at)[j] = to_half(v);
                } else {
                    reinterpret_cast<int8_t*>(at)[j] = static_cast<int8_t>(v * 127.0F);
                }
            }
            inputs[i] = at;
        }
    }

    void* output(const TensorDesc& desc, size_t shift = 0)
    {
        output_bytes = static_cast<size_t>(count_of(desc)) * size_of(desc.type);
        return place(memory_[kMaxInputs], desc, shift);
    }

    const void* inputs[kMaxInputs] = {};
    size_t output_bytes = 0;

private:
    static int64_t count_of(const TensorDesc& desc)
    {
        int64_t count = 1;
        for (int32_t i = 0; i < desc.rank; ++i) {
            count *= desc.dims[i];
        }
        return count;
    }

    static char* place(std::vector<char>& memory, const TensorDesc& desc, size_t shift)
    {
        // Not one byte more than needed at the end, so that a sanitizer sees the first byte too far.
        const size_t bytes = static_cast<size_t>(count_of(desc)) * size_of(desc.type);
        const size_t lead = shift * size_of(desc.type);
        memory.assign(lead + bytes, static_cast<char>(0xFF));
        return memory.data() + lead;  // operator new aligns to 16
    }

    std::vector<char> memory_[kMaxInputs + 1];
};

}  // namespace cases
