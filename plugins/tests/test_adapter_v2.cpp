// The adapter for TensorRT 8.x, against the double.
#include "adapter_common.h"

extern "C" nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) noexcept;

namespace {

using namespace adapter;

struct Destroy {
    void operator()(nvinfer1::IPluginV2* plugin) const { plugin->destroy(); }
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV2DynamicExt, Destroy>;

Plugin owned(nvinfer1::IPluginV2* plugin)
{
    return Plugin(static_cast<nvinfer1::IPluginV2DynamicExt*>(plugin));
}

class Registry final : public nvinfer1::IPluginRegistry {
public:
    bool registerCreator(nvinfer1::IPluginCreator& creator, const char* name) noexcept override
    {
        names.push_back(creator.getPluginName() + std::string("/") + creator.getPluginVersion() + "/" + name);
        return true;
    }
    std::vector<std::string> names;
};

void life_of_a_plugin(nvinfer1::IPluginCreator& creator, const OpSpec& op, DType value, RecordingLogger& logger)
{
    const auto c = cases::make(op, value, DType::kF16);
    Fields fields(c);
    const Plugin first = owned(creator.createPlugin("layer", fields.collection()));
    CHECK(first != nullptr);
    CHECK(std::string(first->getPluginType()) == op.name && std::string(first->getPluginVersion()) == "1");
    CHECK(std::string(first->getPluginNamespace()).empty() && first->getNbOutputs() == 1);

    // Through the plan, in a process that has nothing but the bytes; then a clone, as each context makes one.
    std::vector<char> bytes(first->getSerializationSize());
    first->serialize(bytes.data());
    const Plugin reloaded = owned(creator.deserializePlugin("layer", bytes.data(), bytes.size()));
    CHECK(reloaded != nullptr);
    const Plugin plugin = owned(reloaded->clone());

    Builder builder;
    const auto shapes = builder.shapes_of(c);
    CHECK(is_shape(plugin->getOutputDimensions(0, shapes.data(), op.input_count, builder), c.output(DType::kF16)));
    nvinfer1::DataType types[kMaxInputs];
    for (int32_t i = 0; i < op.input_count; ++i) {
        types[i] = type_of(c.inputs[i].type);
    }
    const DType output = value == DType::kI8 ? DType::kF16 : value;
    CHECK(plugin->getOutputDataType(0, types, op.input_count) == type_of(output));

    auto descs = descs_of(c, output);
    for (int32_t i = 0; i <= op.input_count; ++i) {
        const auto at = static_cast<size_t>(i);
        CHECK(plugin->supportsFormatCombination(i, descs.data(), op.input_count, 1));
        const auto kept = descs[at];
        descs[at].format = nvinfer1::TensorFormat::kCHW2;
        CHECK(!plugin->supportsFormatCombination(i, descs.data(), op.input_count, 1));
        descs[at] = kept;
        descs[at].type = nvinfer1::DataType::kINT32;
        CHECK(!plugin->supportsFormatCombination(i, descs.data(), op.input_count, 1));
        descs[at] = kept;
    }
    const auto dynamic = dynamic_descs_of(c, output);
    plugin->configurePlugin(dynamic.data(), op.input_count, dynamic.data() + op.input_count, 1);
    CHECK(plugin->getWorkspaceSize(descs.data(), op.input_count, descs.data() + op.input_count, 1) == 0);
    CHECK(plugin->initialize() == 0);
    CHECK(logger.take().empty());

    const auto expected = direct(c, output);
    CHECK(enqueued(*plugin, c, output) == std::make_pair(0, expected));
    CHECK(enqueued(*plugin, c, output, 1) == std::make_pair(0, expected));
    g_next_launch_error = 700;
    CHECK(enqueued(*plugin, c, output).first != 0);
    CHECK(check::contains(logger.take(), "the launch failed as the test asked"));

    auto wrong = c;
    wrong.inputs[0].dims[3] += 1;
    CHECK(enqueued(*plugin, wrong, output).first != 0);
    CHECK(check::contains(logger.take(), op.name));
    auto wrong_descs = dynamic_descs_of(wrong, output);
    plugin->configurePlugin(wrong_descs.data(), op.input_count, wrong_descs.data() + op.input_count, 1);
    CHECK(check::contains(logger.take(), op.name));
    // Known shapes that do not fit are refused while formats are negotiated, before any engine exists.
    auto wrong_formats = descs_of(wrong, output);
    CHECK(!plugin->supportsFormatCombination(op.input_count, wrong_formats.data(), op.input_count, 1));
    CHECK(check::contains(logger.take(), op.name));
    wrong_formats[0].dims.d[3] = -1;
    CHECK(plugin->supportsFormatCombination(op.input_count, wrong_formats.data(), op.input_count, 1));
    if (value != DType::kI8) {
        types[0] = nvinfer1::DataType::kINT8;
        plugin->getOutputDataType(0, types, op.input_count);
        CHECK(check::contains(logger.take(), "is int8 and field 'value_scale' is 0"));
    }
    CHECK(logger.take().empty());
    auto flat = builder.shapes_of(c);
    flat[0].nbDims = 1;
    CHECK(plugin->getOutputDimensions(0, flat.data(), op.input_count, builder).nbDims == -1);
    CHECK(check::contains(logger.take(), "has 1 dimensions"));
    CHECK(!plugin->supportsFormatCombination(0, descs.data(), 1, 1));
    CHECK(check::contains(logger.take(), "1 inputs and 1 outputs"));
    plugin->terminate();
}

void damaged_plans_are_refused(nvinfer1::IPluginCreator& creator, const OpSpec& op, RecordingLogger& logger)
{
    Fields fields(cases::make(op, DType::kI8, DType::kF16));
    const Plugin plugin = owned(creator.createPlugin("layer", fields.collection()));
    std::vector<char> bytes(plugin->getSerializationSize());
    plugin->serialize(bytes.data());
    for (size_t size = 0; size < bytes.size(); ++size) {
        CHECK(creator.deserializePlugin("layer", bytes.data(), size) == nullptr);
        CHECK(check::contains(logger.take(), op.name));
    }
    CHECK(creator.deserializePlugin("layer", nullptr, 16) == nullptr);
    CHECK(check::contains(logger.take(), "not written by it"));
}

}  // namespace

int main()
{
    Finder finder;
    setLoggerFinder(&finder);
    int32_t count = 0;
    nvinfer1::IPluginCreator* const* creators = getPluginCreators(count);
    CHECK(count == kOpCount);
    for (int32_t i = 0; i < count; ++i) {
        const OpSpec& op = *find_op(creators[i]->getPluginName());
        CHECK(creators[i]->getFieldNames()->nbFields == op.field_count);
        for (const DType value : {DType::kF32, DType::kF16, DType::kI8}) {
            life_of_a_plugin(*creators[i], op, value, finder.logger);
        }
        bad_fields_are_refused(op, finder.logger, [&](const nvinfer1::PluginFieldCollection* fields) {
            return owned(creators[i]->createPlugin("layer", fields)) != nullptr;
        });
        damaged_plans_are_refused(*creators[i], op, finder.logger);
    }
    Registry registry;
    CHECK(qdbev_register_plugins(&registry, &finder.logger) == kOpCount);
    CHECK(registry.names.front() == "MSDeformAttn/1/");
    setLoggerFinder(nullptr);
    CHECK(creators[0]->createPlugin("layer", nullptr) == nullptr);
    CHECK(check::contains(finder.logger.take(), "missing"));  // now through the logger given at registration
    return check::report();
}
