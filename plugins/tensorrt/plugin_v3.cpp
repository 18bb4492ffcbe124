// The ops as IPluginV3, for TensorRT 10 and later.
#include "entry.h"

namespace qdbev::trt {

namespace {

using namespace nvinfer1;

// The one field of a plan: the same bytes, with the same checks, as the older interface keeps.
constexpr const char* kStateField = "qdbev_state";

class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
public:
    Plugin(const OpSpec& op, Attributes attributes) : op_(op), attributes_(std::move(attributes))
    {
        state_.resize(attributes_.serialised_size());
        attributes_.serialise(state_.data());
        state_field_ = PluginField(kStateField, state_.data(), PluginFieldType::kINT8, static_cast<int32_t>(state_.size()));
        state_collection_ = PluginFieldCollection{1, &state_field_};
    }

    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override
    {
        switch (type) {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override
    {
        return guarded<IPluginV3*>(nullptr, [&] { return new Plugin(op_, attributes_); });
    }

    const AsciiChar* getPluginName() const noexcept override { return op_.name; }
    const AsciiChar* getPluginVersion() const noexcept override { return "1"; }
    const AsciiChar* getPluginNamespace() const noexcept override { return ""; }
    int32_t getNbOutputs() const noexcept override { return 1; }

    int32_t getOutputDataTypes(
        DataType* outputs, int32_t output_count, const DataType* inputs, int32_t input_count) const noexcept override
    {
        return guarded<int32_t>(1, [&] {
            outputs[0] = output_type(op_, attributes_, inputs, input_count, output_count);
            return 0;
        });
    }

    int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t, DimsExprs* outputs,
        int32_t output_count, IExprBuilder& builder) noexcept override
    {
        return guarded<int32_t>(1, [&] {
            require_counts(op_, input_count, output_count);
            outputs[0] = output_expressions(op_, inputs, builder);
            return 0;
        });
    }

    bool supportsFormatCombination(
        int32_t position, const DynamicPluginTensorDesc* in_out, int32_t inputs, int32_t outputs) noexcept override
    {
        return guarded(false, [&] {
            require_counts(op_, inputs, outputs);
            return supports_format(
                op_, attributes_, position, [&](int32_t i) -> const PluginTensorDesc& { return in_out[i].desc; });
        });
    }

    int32_t configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
        int32_t outputs) noexcept override
    {
        return guarded<int32_t>(1, [&] {
            require_counts(op_, inputs, outputs);
            check_descs(
                op_, attributes_, [&](int32_t i) -> const PluginTensorDesc& { return in[i].desc; }, out[0].desc);
            return 0;
        });
    }

    int32_t onShapeChange(
        const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out, int32_t outputs) noexcept override
    {
        return guarded<int32_t>(1, [&] {
            require_counts(op_, inputs, outputs);
            check_descs(op_, attributes_, [&](int32_t i) -> const PluginTensorDesc& { return in[i]; }, out[0]);
            return 0;
        });
    }

    int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs, const void* const* inputs,
        void* const* outputs, void*, cudaStream_t stream) noexcept override
    {
        return guarded<int32_t>(
            1, [&] { return trt::enqueue(op_, attributes_, input_descs, output_descs, inputs, outputs, stream); });
    }

    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
    const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &state_collection_; }

private:
    const OpSpec& op_;
    Attributes attributes_;
    std::vector<char> state_;
    PluginField state_field_;
    PluginFieldCollection state_collection_{};
};

class Creator final : public CreatorBase<IPluginCreatorV3One> {
public:
    using CreatorBase::CreatorBase;

    IPluginV3* createPlugin(
        const AsciiChar*, const PluginFieldCollection* fields, TensorRTPhase phase) noexcept override
    {
        return guarded<IPluginV3*>(nullptr, [&] {
            return new Plugin(op_, phase == TensorRTPhase::kRUNTIME ? from_plan(fields) : parse_fields(op_, fields));
        });
    }

private:
    Attributes from_plan(const PluginFieldCollection* fields) const
    {
        for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
            const PluginField& field = fields->fields[i];
            if (field.name != nullptr && std::strcmp(field.name, kStateField) == 0) {
                return op_.parse_attributes(field.data, field.length < 0 ? 0U : static_cast<size_t>(field.length));
            }
        }
        return op_.parse_attributes(nullptr, 0);  // refuses, with the sentence for a plan that is not ours
    }
};

}  // namespace

}  // namespace qdbev::trt

extern "C" QDBEV_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept
{
    return qdbev::trt::list_creators<qdbev::trt::Creator, nvinfer1::IPluginCreatorInterface>(count);
}

int32_t qdbev_register_plugins(void* registry, void* logger)
{
    return qdbev::trt::register_creators<qdbev::trt::Creator, nvinfer1::IPluginCreatorInterface>(registry, logger);
}
