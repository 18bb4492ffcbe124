// The ops as IPluginV2DynamicExt, for TensorRT 8.x.
#include <memory>

#include "entry.h"

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
            return output_type(op_, attributes_, inputs, count, 1);
        });
    }

    DimsExprs getOutputDimensions(int32_t, const DimsExprs* inputs, int32_t count, IExprBuilder& builder) noexcept override
    {
        DimsExprs invalid{};
        invalid.nbDims = -1;
        return guarded(invalid, [&] {
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

class Creator final : public CreatorBase<IPluginCreator> {
public:
    using CreatorBase::CreatorBase;

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
};

}  // namespace

}  // namespace qdbev::trt

extern "C" QDBEV_API nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) noexcept
{
    return qdbev::trt::list_creators<qdbev::trt::Creator, nvinfer1::IPluginCreator>(count);
}

int32_t qdbev_register_plugins(void* registry, void* logger)
{
    return qdbev::trt::register_creators<qdbev::trt::Creator, nvinfer1::IPluginCreator>(registry, logger);
}
