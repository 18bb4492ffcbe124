// The adapter for TensorRT 10 and later, against the double.
#include "adapter_common.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept;

namespace {

using namespace adapter;
using nvinfer1::TensorRTPhase;

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

template <typename Capability>
Capability& capability(nvinfer1::IPluginV3& plugin, nvinfer1::PluginCapabilityType type)
{
    return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}

nvinfer1::IPluginV3OneRuntime& runtime_of(nvinfer1::IPluginV3& plugin)
{
    return capability<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME);
}

class Registry final : public nvinfer1::IPluginRegistry {
public:
    bool registerCreator(nvinfer1::IPluginCreatorInterface& creator, const char*) noexcept override
    {
        creators.push_back(&creator);
        return creators.size() != 2;  // as if the second were taken
    }
    std::vector<nvinfer1::IPluginCreatorInterface*> creators;
};

void life_of_a_plugin(nvinfer1::IPluginCreatorV3One& creator, const OpSpec& op, DType value, RecordingLogger& logger)
{
    const auto c = cases::make(op, value, DType::kF16);
    const DType output = value == DType::kI8 ? DType::kF16 : value;
    Fields fields(c);
    const Plugin plugin(creator.createPlugin("layer", fields.collection(), TensorRTPhase::kBUILD));
    CHECK(plugin != nullptr);
    auto& core = capability<nvinfer1::IPluginV3OneCore>(*plugin, nvinfer1::PluginCapabilityType::kCORE);
    CHECK(std::string(core.getPluginName()) == op.name && std::string(core.getPluginVersion()) == "1");
    CHECK(std::string(core.getPluginNamespace()).empty());

    auto& build = capability<nvinfer1::IPluginV3OneBuild>(*plugin, nvinfer1::PluginCapabilityType::kBUILD);
    CHECK(build.getNbOutputs() == 1);
    Builder builder;
    const auto shapes = builder.shapes_of(c);
    nvinfer1::DimsExprs shape{};
    CHECK(build.getOutputShapes(shapes.data(), op.input_count, nullptr, 0, &shape, 1, builder) == 0);
    CHECK(is_shape(shape, c.output(output)));
    nvinfer1::DataType types[kMaxInputs];
    for (int32_t i = 0; i < op.input_count; ++i) {
        types[i] = type_of(c.inputs[i].type);
    }
    nvinfer1::DataType out_type{};
    CHECK(build.getOutputDataTypes(&out_type, 1, types, op.input_count) == 0 && out_type == type_of(output));

    auto descs = dynamic_descs_of(c, output);
    for (int32_t i = 0; i <= op.input_count; ++i) {
        auto& desc = descs[static_cast<size_t>(i)].desc;
        CHECK(build.supportsFormatCombination(i, descs.data(), op.input_count, 1));
        desc.format = nvinfer1::TensorFormat::kHWC8;
        CHECK(!build.supportsFormatCombination(i, descs.data(), op.input_count, 1));
        desc.format = nvinfer1::TensorFormat::kLINEAR;
        const auto kept = desc.type;
        desc.type = nvinfer1::DataType::kBOOL;
        CHECK(!build.supportsFormatCombination(i, descs.data(), op.input_count, 1));
        desc.type = kept;
    }
    CHECK(build.configurePlugin(descs.data(), op.input_count, descs.data() + op.input_count, 1) == 0);

    // Through the plan: the serialised fields are copied, since nothing of the first plugin survives.
    std::vector<char> bytes;
    Fields from_plan(c);
    from_plan.fields.clear();
    {
        const auto* stored = runtime_of(*plugin).getFieldsToSerialize();
        CHECK(stored->nbFields == 1 && stored->fields[0].type == nvinfer1::PluginFieldType::kINT8);
        const auto* data = static_cast<const char*>(stored->fields[0].data);
        bytes.assign(data, data + stored->fields[0].length);
        from_plan.add(stored->fields[0].name, bytes.data(), stored->fields[0].type, bytes.size());
    }
    const Plugin reloaded(creator.createPlugin("layer", from_plan.collection(), TensorRTPhase::kRUNTIME));
    CHECK(reloaded != nullptr);
    const Plugin attached(runtime_of(*reloaded).attachToContext(nullptr));
    const Plugin copy(attached->clone());
    auto& runtime = runtime_of(*copy);
    const auto plain = descs_of(c, output);
    CHECK(runtime.onShapeChange(plain.data(), op.input_count, plain.data() + op.input_count, 1) == 0);
    CHECK(logger.take().empty());
    const auto expected = direct(c, output);
    CHECK(enqueued(runtime, c, output) == std::make_pair(0, expected));
    CHECK(enqueued(runtime, c, output, 1) == std::make_pair(0, expected));
    g_next_launch_error = 700;
    CHECK(enqueued(runtime, c, output).first != 0);
    CHECK(check::contains(logger.take(), "the launch failed as the test asked"));

    // Errors are return values here, each with its sentence.
    auto wrong = c;
    wrong.inputs[0].dims[3] += 1;
    auto wrong_descs = dynamic_descs_of(wrong, output);
    CHECK(build.configurePlugin(wrong_descs.data(), op.input_count, wrong_descs.data() + op.input_count, 1) != 0);
    CHECK(check::contains(logger.take(), op.name));
    const auto wrong_plain = descs_of(wrong, output);
    CHECK(runtime.onShapeChange(wrong_plain.data(), op.input_count, wrong_plain.data() + op.input_count, 1) != 0);
    CHECK(check::contains(logger.take(), op.name));
    CHECK(enqueued(runtime, wrong, output).first != 0);
    CHECK(check::contains(logger.take(), op.name));
    wrong_descs[0].desc.dims.d[3] = -1;  // still open: nothing to say yet
    CHECK(build.configurePlugin(wrong_descs.data(), op.input_count, wrong_descs.data() + op.input_count, 1) == 0);
    wrong_descs = dynamic_descs_of(wrong, output);
    CHECK(!build.supportsFormatCombination(op.input_count, wrong_descs.data(), op.input_count, 1));
    CHECK(check::contains(logger.take(), op.name));
    if (value != DType::kI8) {
        types[0] = nvinfer1::DataType::kINT8;
        CHECK(build.getOutputDataTypes(&out_type, 1, types, op.input_count) != 0);
        CHECK(check::contains(logger.take(), "is int8 and field 'value_scale' is 0"));
    }
    CHECK(logger.take().empty());
    auto flat = builder.shapes_of(c);
    flat[0].nbDims = 1;
    CHECK(build.getOutputShapes(flat.data(), op.input_count, nullptr, 0, &shape, 1, builder) != 0);
    CHECK(check::contains(logger.take(), "has 1 dimensions"));
    CHECK(build.getOutputDataTypes(&out_type, 2, types, op.input_count) != 0);
    CHECK(check::contains(logger.take(), "and 2 outputs"));

    for (size_t size = 0; size < bytes.size(); ++size) {
        from_plan.fields[0].length = static_cast<int32_t>(size);
        CHECK(creator.createPlugin("layer", from_plan.collection(), TensorRTPhase::kRUNTIME) == nullptr);
        CHECK(check::contains(logger.take(), op.name));
    }
    CHECK(creator.createPlugin("layer", fields.collection(), TensorRTPhase::kRUNTIME) == nullptr);
    CHECK(check::contains(logger.take(), "not written by it"));
}

}  // namespace

int main()
{
    Finder finder;
    setLoggerFinder(&finder);
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* creators = getCreators(count);
    CHECK(count == kOpCount);
    for (int32_t i = 0; i < count; ++i) {
        auto& creator = static_cast<nvinfer1::IPluginCreatorV3One&>(*creators[i]);
        CHECK(std::string(creator.getPluginVersion()) == "1" && std::string(creator.getPluginNamespace()).empty());
        const OpSpec& op = *find_op(creator.getPluginName());
        CHECK(creator.getFieldNames()->nbFields == op.field_count);
        for (const DType value : {DType::kF32, DType::kF16, DType::kI8}) {
            life_of_a_plugin(creator, op, value, finder.logger);
        }
        bad_fields_are_refused(op, finder.logger, [&](const nvinfer1::PluginFieldCollection* fields) {
            return Plugin(creator.createPlugin("layer", fields, TensorRTPhase::kBUILD)) != nullptr;
        });
    }
    Registry registry;
    CHECK(qdbev_register_plugins(&registry, nullptr) == kOpCount - 1);
    CHECK(registry.creators.size() == static_cast<size_t>(kOpCount));
    CHECK(qdbev_register_plugins(nullptr, nullptr) == -1);
    CHECK(check::contains(finder.logger.take(), "given no registry"));
    return check::report();
}
