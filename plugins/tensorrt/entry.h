// What the two adapters have alike around their plugins: creators, and the functions that TensorRT or a program calls.
#pragma once

#include "convert.h"
#include "log.h"
#include "qdbev/register.h"

namespace qdbev::trt {

// The part of a creator that both interfaces ask for.
template <typename Interface>
class CreatorBase : public Interface {
public:
    explicit CreatorBase(const OpSpec& op) : op_(op), fields_(declared_fields(op))
    {
        collection_ = nvinfer1::PluginFieldCollection{static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    const nvinfer1::AsciiChar* getPluginName() const noexcept override { return op_.name; }
    const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return "1"; }
    const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

protected:
    const OpSpec& op_;
    std::string namespace_;

private:
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

template <typename Creator, typename Interface>
Interface* const* creators()
{
    static Creator all[] = {Creator(*kOps[0]), Creator(*kOps[1]), Creator(*kOps[2]), Creator(*kOps[3])};
    static Interface* const pointers[] = {&all[0], &all[1], &all[2], &all[3]};
    return pointers;
}

// What IPluginRegistry::loadLibrary asks for.
template <typename Creator, typename Interface>
Interface* const* list_creators(int32_t& count) noexcept
{
    count = 0;
    return guarded<Interface* const*>(nullptr, [&] {
        auto* const* all = creators<Creator, Interface>();
        count = kOpCount;
        return all;
    });
}

// qdbev_register_plugins, see qdbev/register.h.
template <typename Creator, typename Interface>
int32_t register_creators(void* registry, void* logger) noexcept
{
    return guarded<int32_t>(-1, [&] {
        set_logger(static_cast<nvinfer1::ILogger*>(logger));
        if (registry == nullptr) {
            throw Refusal("qdbev_register_plugins was given no registry.");
        }
        int32_t registered = 0;
        for (int32_t i = 0; i < kOpCount; ++i) {
            auto& to = *static_cast<nvinfer1::IPluginRegistry*>(registry);
            registered += to.registerCreator(*creators<Creator, Interface>()[i], "") ? 1 : 0;
        }
        return registered;
    });
}

}  // namespace qdbev::trt
