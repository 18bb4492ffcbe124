// TEST DOUBLE. A library that stands for libnvinfer: its engine does simple arithmetic on the contract's tensors.
//
//   bev_embed[i]       = 1 + image[i mod] + can_bus[i mod] + 2 lidar2img[i mod] + use_prev_bev * prev_bev[i] / 2
//   outputs_classes[i] = bev_embed[i mod] + i
//   outputs_coords[i]  = 3 bev_embed[i mod] - i
//
// The first enqueue with other state buffers allocates, as TensorRT's may.
#include "nvinfer_double.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "cuda_double.h"

using namespace nvinfer1;
using nvinfer_double::Control;
using nvinfer_double::Tensor;

namespace {

Control& control()
{
    return *nvinfer_double_control();
}

void complain(const char* sentence)
{
    control().logger->log(ILogger::Severity::kERROR, sentence);
}

size_t elements_of(const Tensor& tensor)
{
    size_t count = 1;
    for (const int64_t extent : tensor.shape) {
        count *= static_cast<size_t>(extent);
    }
    return count;
}

struct Bound {
    float* data = nullptr;
    size_t count = 0;
    float operator[](size_t i) const { return data[i % count]; }
};

// All addresses as they were when the network was enqueued.
void compute(const std::vector<Bound>& t)
{
    for (const Bound& bound : t) {
        cuda_double::require_device(bound.data, bound.count * sizeof(float));
    }
    for (size_t i = 0; i < t[5].count; ++i) {
        const float past = t[2][0] != 0 ? t[2][0] * t[1][i] / 2 : 0;
        t[5].data[i] = 1 + t[0][i] + t[3][i] + 2 * t[4][i] + past;
    }
    for (size_t i = 0; i < t[6].count; ++i) {
        t[6].data[i] = t[5][i] + static_cast<float>(i);
    }
    for (size_t i = 0; i < t[7].count; ++i) {
        t[7].data[i] = 3 * t[5][i] - static_cast<float>(i);
    }
}

class Context final : public IExecutionContext {
public:
    explicit Context(const std::vector<Tensor>& tensors) : tensors_(tensors) { ++control().contexts; }
    ~Context() noexcept override { --control().contexts; }

    bool setTensorAddress(const char* name, void* address) noexcept override
    {
        const bool known = name != control().refused_address
            && std::any_of(
                tensors_.begin(), tensors_.end(), [name](const Tensor& tensor) { return tensor.name == name; });
        if (known) {
            addresses_[name] = address;
        } else {
            complain("there is no such tensor.");
        }
        return known;
    }

    bool enqueueV3(cudaStream_t stream) noexcept override
    {
        if (control().enqueues_until_failure >= 0 && control().enqueues_until_failure-- == 0) {
            if (!control().fails_silently) {
                complain("the enqueue failed as the test asked.\n");
            }
            return false;
        }
        std::vector<Bound> bound;
        for (const Tensor& tensor : tensors_) {
            const auto found = addresses_.find(tensor.name);
            if (found == addresses_.end()) {
                complain("a tensor has no address.");
                return false;
            }
            bound.push_back({static_cast<float*>(found->second), elements_of(tensor)});
        }
        if (known_.insert({bound[1].data, bound[5].data}).second) {
            void* scratch = nullptr;
            const bool waited = cudaMalloc(&scratch, 16) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess;
            if (scratch != nullptr) {
                cudaFree(scratch);
            }
            control().logger->log(ILogger::Severity::kWARNING, "a first enqueue takes longer.");
            if (!waited) {
                complain("what a first enqueue sets up failed.");
                return false;
            }
        }
        if (control().waits_in_enqueue && cuda_double::is_capturing(stream)) {
            cudaStreamSynchronize(stream);
        }
        const auto error =
            cuda_double::launch(stream, "network", nvinfer_double::kNetworkMs, [bound] { compute(bound); });
        return error == cudaSuccess;
    }

private:
    std::vector<Tensor> tensors_;
    std::map<std::string, void*> addresses_;
    std::set<std::pair<void*, void*>> known_;
};

class Engine final : public ICudaEngine {
public:
    Engine() : tensors_(control().tensors) { ++control().engines; }
    ~Engine() noexcept override { --control().engines; }

    int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(tensors_.size()); }
    const char* getIOTensorName(int32_t index) const noexcept override
    {
        return tensors_[static_cast<size_t>(index)].name.c_str();
    }
    TensorIOMode getTensorIOMode(const char* name) const noexcept override
    {
        return tensor(name).input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(const char* name) const noexcept override { return tensor(name).type; }
    Dims getTensorShape(const char* name) const noexcept override
    {
        Dims dims{};
        for (const int64_t extent : tensor(name).shape) {
            dims.d[dims.nbDims++] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(extent);
        }
        return dims;
    }
    IExecutionContext* createExecutionContext() noexcept override
    {
        if (!control().makes_context) {
            complain("out of device memory.");
            return nullptr;
        }
        return new Context(tensors_);
    }
#if QDBEV_TRT_DOUBLE_MAJOR >= 10
    int64_t getDeviceMemorySizeV2() const noexcept override { return 4096; }
#else
    size_t getDeviceMemorySize() const noexcept override { return 4096; }
#endif

private:
    const Tensor& tensor(std::string_view name) const
    {
        return *std::find_if(
            tensors_.begin(), tensors_.end(), [name](const Tensor& tensor) { return tensor.name == name; });
    }

    std::vector<Tensor> tensors_;
};

class Runtime final : public IRuntime {
public:
    Runtime() { ++control().runtimes; }
    ~Runtime() noexcept override { --control().runtimes; }

    void setEngineHostCodeAllowed(bool allowed) noexcept override { control().host_code_allowed = allowed; }
    void setDLACore(int32_t core) noexcept override { control().dla_core = core; }
    ICudaEngine* deserializeCudaEngine(const void* blob, size_t size) noexcept override
    {
        const std::string_view plan(static_cast<const char*>(blob), size);
        if (plan == nvinfer_double::kCompatiblePlan && !control().host_code_allowed) {
            complain("the plan holds host code, which is not allowed.");
            return nullptr;
        }
        if (plan != nvinfer_double::kPlan && plan != nvinfer_double::kCompatiblePlan) {
            complain("Serialization assertion magicTagRead == magicTag failed.");
            complain("Engine deserialization failed.");
            return nullptr;
        }
        return new Engine;
    }
};

class Registry final : public IPluginRegistry {
public:
    PluginLibraryHandle loadLibrary(const AsciiChar* path) noexcept override
    {
        if (!control().takes_plugins) {
            complain("the library exports no creators.");
            return nullptr;
        }
        control().libraries.emplace_back(path);
        return this;
    }
#if QDBEV_TRT_DOUBLE_MAJOR >= 10
    IPluginCreatorInterface* getCreator(
        const AsciiChar* name, const AsciiChar* version, const AsciiChar*) noexcept override
#else
    IPluginCreator* getPluginCreator(
        const AsciiChar* name, const AsciiChar* version, const AsciiChar*) noexcept override
#endif
    {
        const auto& ops = control().ops;
        const bool known = !control().libraries.empty() && std::string_view(version) == "1"
            && std::find(ops.begin(), ops.end(), name) != ops.end();
        return known ? &creator_ : nullptr;
    }

private:
    IPluginCreator creator_;
};

}  // namespace

extern "C" {

Control* nvinfer_double_control()
{
    static Control* const made = new Control;
    return made;
}

void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept
{
    control().logger = static_cast<ILogger*>(logger);
    control().asked_version = version;
    if (!control().makes_runtime) {
        complain("CUDA initialization failure with error: 35.");
        return nullptr;
    }
    return static_cast<IRuntime*>(new Runtime);
}

IPluginRegistry* getPluginRegistry() noexcept
{
    static Registry registry;
    return &registry;
}

int32_t getInferLibVersion() noexcept
{
    return control().version;
}
}
