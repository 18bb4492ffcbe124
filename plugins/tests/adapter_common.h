// What the tests of both adapters share: fields, descs and shape expressions made from a case, and a recording logger.
#pragma once

#include <deque>
#include <memory>

#include "NvInferRuntime.h"
#include "check.h"
#include "launch_on_host.h"
#include "log.h"
#include "op_cases.h"
#include "qdbev/register.h"

namespace adapter {

using namespace qdbev;

class RecordingLogger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override
    {
        if (severity == Severity::kERROR) {
            last = message;
        }
    }
    // The last sentence, which is then forgotten.
    std::string take()
    {
        std::string result;
        result.swap(last);
        return result;
    }
    std::string last;
};

class Finder final : public nvinfer1::ILoggerFinder {
public:
    nvinfer1::ILogger* findLogger() override { return &logger; }
    RecordingLogger logger;
};

// Fields as the ONNX parser hands them over.
class Fields {
public:
    explicit Fields(const cases::Case& c)
    {
        for (int32_t i = 0; i < c.op->field_count; ++i) {
            const auto at = static_cast<size_t>(i);
            if (!c.int_fields[at].empty()) {
                ints_.emplace_back(c.int_fields[at].begin(), c.int_fields[at].end());
                add(c.op->fields[i].name, ints_.back().data(), nvinfer1::PluginFieldType::kINT32, ints_.back().size());
            }
            if (!c.float_fields[at].empty()) {
                floats_.emplace_back(c.float_fields[at].begin(), c.float_fields[at].end());
                add(c.op->fields[i].name, floats_.back().data(), nvinfer1::PluginFieldType::kFLOAT32, floats_.back().size());
            }
        }
    }

    void add(const char* name, const void* data, nvinfer1::PluginFieldType type, size_t length)
    {
        fields.emplace_back(name, data, type, static_cast<int32_t>(length));
    }

    const nvinfer1::PluginFieldCollection* collection()
    {
        collection_.nbFields = static_cast<int32_t>(fields.size());
        collection_.fields = fields.data();
        return &collection_;
    }

    std::vector<nvinfer1::PluginField> fields;

private:
    std::deque<std::vector<int32_t>> ints_;
    std::deque<std::vector<float>> floats_;
    nvinfer1::PluginFieldCollection collection_;
};

inline nvinfer1::DataType type_of(DType type)
{
    return static_cast<nvinfer1::DataType>(static_cast<int32_t>(type));  // the numbers agree
}

inline nvinfer1::PluginTensorDesc desc_of(const TensorDesc& tensor)
{
    nvinfer1::PluginTensorDesc desc{};
    desc.dims.nbDims = tensor.rank;
    for (int32_t i = 0; i < tensor.rank; ++i) {
        desc.dims.d[i] = static_cast<std::remove_extent_t<decltype(desc.dims.d)>>(tensor.dims[i]);
    }
    desc.type = type_of(tensor.type);
    desc.format = nvinfer1::TensorFormat::kLINEAR;
    return desc;
}

inline std::vector<nvinfer1::PluginTensorDesc> descs_of(const cases::Case& c, DType output)
{
    std::vector<nvinfer1::PluginTensorDesc> descs;
    for (int32_t i = 0; i < c.op->input_count; ++i) {
        descs.push_back(desc_of(c.inputs[i]));
    }
    descs.push_back(desc_of(c.output(output)));
    return descs;
}

inline std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic_descs_of(const cases::Case& c, DType output)
{
    std::vector<nvinfer1::DynamicPluginTensorDesc> result;
    for (const auto& desc : descs_of(c, output)) {
        nvinfer1::DynamicPluginTensorDesc dynamic{};
        dynamic.desc = desc;
        result.push_back(dynamic);
    }
    return result;
}

struct Extent final : nvinfer1::IDimensionExpr {
    explicit Extent(int64_t value_) : value(value_) {}
    int64_t value;
};

class Builder final : public nvinfer1::IExprBuilder {
public:
    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op, const nvinfer1::IDimensionExpr& first,
        const nvinfer1::IDimensionExpr& second) noexcept override
    {
        const auto a = static_cast<const Extent&>(first).value;
        const auto b = static_cast<const Extent&>(second).value;
        return extent(op == nvinfer1::DimensionOperation::kPROD ? a * b : a + b);
    }
    const Extent* extent(int64_t value) { return &extents_.emplace_back(value); }

    std::vector<nvinfer1::DimsExprs> shapes_of(const cases::Case& c)
    {
        std::vector<nvinfer1::DimsExprs> shapes;
        for (int32_t i = 0; i < c.op->input_count; ++i) {
            nvinfer1::DimsExprs shape{};
            shape.nbDims = c.inputs[i].rank;
            for (int32_t j = 0; j < shape.nbDims; ++j) {
                shape.d[j] = extent(c.inputs[i].dims[j]);
            }
            shapes.push_back(shape);
        }
        return shapes;
    }

private:
    std::deque<Extent> extents_;
};

inline bool is_shape(const nvinfer1::DimsExprs& shape, const TensorDesc& expected)
{
    bool equal = shape.nbDims == expected.rank;
    for (int32_t i = 0; equal && i < expected.rank; ++i) {
        equal = static_cast<const Extent*>(shape.d[i])->value == expected.dims[i];
    }
    return equal;
}

// What the op computes when nothing lies between it and the caller.
inline std::vector<char> direct(const cases::Case& c, DType out_type)
{
    cases::Data data(c);
    const TensorDesc output = c.output(out_type);
    auto* out = static_cast<char*>(data.output(output));
    run_on_host(*c.op, prepare(*c.op, c.attributes(), c.inputs, data.inputs, output, out), 1);
    return std::vector<char>(out, out + data.output_bytes);
}

// Enqueues `plugin` (either interface) on the case's data.
template <typename Plugin>
std::pair<int32_t, std::vector<char>> enqueued(Plugin& plugin, const cases::Case& c, DType out_type, size_t shift = 0)
{
    cases::Data data(c, shift);
    auto* out = static_cast<char*>(data.output(c.output(out_type), shift));
    void* outputs[] = {out};
    const auto descs = descs_of(c, out_type);
    int token = 0;
    auto* stream = reinterpret_cast<cudaStream_t>(&token);
    const int32_t result
        = plugin.enqueue(descs.data(), descs.data() + c.op->input_count, data.inputs, outputs, nullptr, stream);
    CHECK(result != 0 || g_last_stream == stream);
    return {result, std::vector<char>(out, out + data.output_bytes)};
}

// Field sets that createPlugin must refuse with a sentence that holds `expected`. `create` returns whether it made one.
template <typename Create>
void bad_fields_are_refused(const OpSpec& op, RecordingLogger& logger, Create&& create)
{
    const auto c = cases::make(op, DType::kI8, DType::kF16);
    const auto refused = [&](Fields& fields, const char* expected) {
        CHECK(!create(fields.collection()));
        const std::string sentence = logger.take();
        CHECK(check::contains(sentence, expected));
        CHECK(check::contains(sentence, op.name));
    };
    const float one = 1.0F;
    const int32_t integer = 1;
    {
        Fields fields(c);
        fields.add("colour", &integer, nvinfer1::PluginFieldType::kINT32, 1);
        refused(fields, "field 'colour' is unknown");
    }
    {
        Fields fields(c);
        fields.fields[0].type = nvinfer1::PluginFieldType::kCHAR;
        refused(fields, "field type 6");
    }
    {
        Fields fields(c);
        fields.fields[0] = nvinfer1::PluginField(op.fields[0].name, &one, nvinfer1::PluginFieldType::kFLOAT32, 1);
        refused(fields, "given as floats but is of kind");
    }
    {
        Fields fields(c);
        fields.fields[0].length = 0;
        refused(fields, "is empty");
    }
    {
        Fields fields(c);
        fields.fields[0].length = -1;
        refused(fields, "is empty");
    }
    {
        Fields fields(c);
        fields.fields.erase(fields.fields.begin());
        refused(fields, "is missing");
    }
    {
        Fields fields(c);
        fields.fields.push_back(fields.fields[0]);
        refused(fields, "given twice");
    }
    {
        auto negative = c;
        negative.set_float("value_scale", -0.1);
        Fields fields(negative);
        refused(fields, "must be a positive number");
    }
    CHECK(!create(nullptr));
    CHECK(check::contains(logger.take(), "is missing"));
}

}  // namespace adapter
