// The ops as IPluginV2DynamicExt, for TensorRT 8.x.
#include "convert.h"
#include "log.h"
#include <memory>

#include "qdbev/register.h"

// TensorRT 8.6 marks the base classes of its only dynamic-shape plugin interface as deprecated.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace qdbev::trt {

namespace {

using namespace nvinfer1;

class Plugin final : public IPluginV2DynamicExt {
public:
    Plugin(const OpSpec& op, Attributes attributes) : op_(op), attributes_(std::move(attributes)) {}

    const AsciiChar* getPluginType() const noexcept override { return op_.name; }
    const AsciiChar* getPluginVersion() const noexcept override { return "1"; }
    const AsciiChar* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    void destroy() noexcept override { delete this; }
    size_t getSerializationSize() const noexcept override { return attributes_.serialised_size(); }
    void serialize(void* buffer) const noexcept override { attributes_.serialise(buffer); }

    void setPluginNamespace(const AsciiChar* name) noexcept override
    {
        guarded(0, [&] {
            namespace_ = name == nullptr ? "" : name;
            return 0;
        });
    }

    IPluginV2DynamicExt* clone() const noexcept override
    {
        return guarded<IPluginV2DynamicExt*>(nullptr, [&] {
            auto copy = std::make_unique<Plugin>(op_, attributes_);
            copy->namespace_ = namespace_;
            return copy.release();
        });
    }

    DataType getOutputDataType(int32_t, const DataType* inputs, int32_t count) const noexcept override
    {
        return guarded(DataType::kFLOAT, [&] {
            require_counts(op_, count, 1);
            DType types[kMaxInputs];
            for (int32_t i = 0; i < count; ++i) {
                types[i] = to_dtype(inputs[i]);
            }
            return to_trt(default_output_type(op_, attributes_, types));
        });
    }

    DimsExprs getOutputDimensions(int32_t, const DimsExprs* inputs, int32_t count, IExprBuilder& builder) noexcept override
    {
        return guarded(DimsExprs{}, [&] {
            require_counts(op_, count, 1);
            return output_expressions(op_, inputs, builder);
        });
    }

    bool supportsFormatCombination(
        int32_t position, const PluginTensorDesc* in_out, int32_t inputs, int32_t outputs) noexcept override
    {
        return guarded(false, [&] {
            require_counts(op_, inputs, outputs);
            return supports_format(
                op_, attributes_, position, [&](int32_t i) -> const PluginTensorDesc& { return in_out[i]; });
        });
    }

    void configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
        int32_t outputs) noexcept override
    {
        // This interface cannot report a failure here: the sentence goes to the log, and enqueue refuses.
        guarded(0, [&] {
            require_counts(op_, inputs, outputs);
            check_descs(
                op_, attributes_, [&](int32_t i) -> const PluginTensorDesc& { return in[i].desc; }, out[0].desc);
            return 0;
        });
    }

    size_t getWorkspaceSize(const PluginTensorDesc*, int32_t, const PluginTensorDesc*, int32_t) const noexcept override
    {
        return 0;
    }

    int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs, const void* const* inputs,
        void* const* outputs, void*, cudaStream_t stream) noexcept override
    {
        return guarded<int32_t>(
            1, [&] { return trt::enqueue(op_, attributes_, input_descs, output_descs, inputs, outputs, stream); });
    }

private:
    const OpSpec& op_;
    Attributes attributes_;
    std::string namespace_;
};

class Creator final : public IPluginCreator {
public:
    explicit Creator(const OpSpec& op) : op_(op), fields_(declared_fields(op))
    {
        collection_ = PluginFieldCollection{static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    const AsciiChar* getPluginName() const noexcept override { return op_.name; }
    const AsciiChar* getPluginVersion() const noexcept override { return "1"; }
    const AsciiChar* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
    const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

    void setPluginNamespace(const AsciiChar* name) noexcept override
    {
        guarded(0, [&] {
            namespace_ = name == nullptr ? "" : name;
            return 0;
        });
    }

    IPluginV2* createPlugin(const AsciiChar*, const PluginFieldCollection* fields) noexcept override
    {
        return guarded<IPluginV2*>(nullptr, [&] { return made(parse_fields(op_, fields)); });
    }

    IPluginV2* deserializePlugin(const AsciiChar*, const void* data, size_t size) noexcept override
    {
        return guarded<IPluginV2*>(nullptr, [&] { return made(op_.parse_attributes(data, size)); });
    }

private:
    Plugin* made(Attributes attributes) const
    {
        auto plugin = std::make_unique<Plugin>(op_, std::move(attributes));
        plugin->setPluginNamespace(namespace_.c_str());
        return plugin.release();
    }

    const OpSpec& op_;
    std::vector<PluginField> fields_;
    PluginFieldCollection collection_{};
    std::string namespace_;
};

IPluginCreator* const* creators()
{
    static Creator all[] = {Creator(*kOps[0]), Creator(*kOps[1]), Creator(*kOps[2]), Creator(*kOps[3])};
    static IPluginCreator* const pointers[] = {&all[0], &all[1], &all[2], &all[3]};
    return pointers;
}

}  // namespace

}  // namespace qdbev::trt

// What IPluginRegistry::loadLibrary looks for.
extern "C" QDBEV_API nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) noexcept
{
    count = 0;
    return qdbev::trt::guarded<nvinfer1::IPluginCreator* const*>(nullptr, [&] {
        auto* const* all = qdbev::trt::creators();
        count = qdbev::kOpCount;
        return all;
    });
}

extern "C" QDBEV_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept
{
    qdbev::trt::set_logger_finder(finder);
}

int32_t qdbev_register_plugins(void* registry, void* logger)
{
    return qdbev::trt::guarded<int32_t>(-1, [&] {
        qdbev::trt::set_logger(static_cast<nvinfer1::ILogger*>(logger));
        if (registry == nullptr) {
            throw qdbev::Refusal("qdbev_register_plugins was given no registry.");
        }
        int32_t registered = 0;
        for (int32_t i = 0; i < qdbev::kOpCount; ++i) {
            auto& to = *static_cast<nvinfer1::IPluginRegistry*>(registry);
            registered += to.registerCreator(*qdbev::trt::creators()[i], "") ? 1 : 0;
        }
        return registered;
    });
}
