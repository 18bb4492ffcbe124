// TensorRT as a backend: what it needs of the machine, how it opens a plan, what the plan must hold.
#include "backend.h"

#include <sys/utsname.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "api.h"
#include "compatibility.h"
#include "cuda.h"
#include "library.h"
#include "log.h"
#include "plugins.h"
#include "stream.h"

namespace qdbev::runtime {

namespace trt {

namespace {

std::string processor()
{
    utsname names{};
    return uname(&names) == 0 ? names.machine : "an unknown processor";
}

Library open_library(const EngineOptions& options)
{
    const std::string name = "libnvinfer.so." + std::to_string(kMajor);
    return Library::open(library_names(options.backend_library, "QDBEV_TENSORRT_LIBRARY", {name.c_str()}),
        "TensorRT " + std::to_string(kMajor) + ", for which this runtime was built",
        "install it (JetPack has it), or name its libnvinfer in QDBEV_TENSORRT_LIBRARY; qdbev-deploy doctor --for "
        "tensorrt says what is here");
}

std::string name_of_type(nvinfer1::DataType type)
{
    switch (type) {
    case nvinfer1::DataType::kFLOAT: return "float32";
    case nvinfer1::DataType::kHALF: return "float16";
    case nvinfer1::DataType::kUINT8: return "uint8";
    case nvinfer1::DataType::kINT8: return "int8";
    case nvinfer1::DataType::kINT32: return "int32";
    case nvinfer1::DataType::kBOOL: return "bool";
    default: return "of TensorRT's type " + std::to_string(static_cast<int32_t>(type));
    }
}

// "an input float32 [1, 6, 3, 480, 800]" by name, which is also what is compared.
using Tensors = std::map<std::string, std::string>;

template <typename Extents>
std::string described(bool input, const std::string& type, const Extents& extents, std::size_t rank)
{
    std::string text = (input ? "an input " : "an output ") + type + " [";
    for (std::size_t i = 0; i < rank; ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(extents[i]);
    }
    return text + "]";
}

Tensors tensors_of(const nvinfer1::ICudaEngine& engine)
{
    Tensors found;
    for (int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
        const char* name = engine.getIOTensorName(i);
        const nvinfer1::Dims shape = engine.getTensorShape(name);
        found[name] = described(engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT,
            name_of_type(engine.getTensorDataType(name)), shape.d, static_cast<std::size_t>(std::max(shape.nbDims, 0)));
    }
    return found;
}

Tensors tensors_of(const Contract& contract)
{
    Tensors wanted;
    for (const TensorSpec& spec : contract.inputs) {
        wanted[spec.name] = described(true, name_of(spec.dtype), spec.shape, spec.shape.size());
    }
    for (const TensorSpec& spec : contract.outputs) {
        wanted[spec.name] = described(false, name_of(spec.dtype), spec.shape, spec.shape.size());
    }
    return wanted;
}

// What of `one` is otherwise in `other`, "image: an input ..."; what is missing there too.
std::string difference(const Tensors& one, const Tensors& other)
{
    std::string text;
    const auto add = [&text](const std::string& name, const std::string& what) {
        text += (text.empty() ? "" : ", ") + name + " " + what;
    };
    for (const auto& [name, described] : one) {
        const auto there = other.find(name);
        if (there == other.end() || there->second != described) {
            add(name, described);
        }
    }
    for (const auto& [name, described] : other) {
        if (one.find(name) == one.end()) {
            add(name, "none");
        }
    }
    return text;
}

class TensorRTBackend final : public Backend {
public:
    TensorRTBackend(const Bundle& bundle, const EngineOptions& options)
        : contract_(bundle.contract), build_command_(bundle.build_command), log_(options.logger, options.logger_user)
    {
        const cuda::Device device = cuda::first_device();
        require_processor(bundle, processor());
        require_gpu(bundle, device.name, device.compute_capability);
        require_major(bundle, kMajor);
        const cuda::OnDevice here;
        cuda::require(here.error(), "choose the first GPU");
        // Makes CUDA's context now: where that fails, some releases of TensorRT end the process.
        cuda::require(cudaFree(nullptr), "begin work on the first GPU");
        const Library library = open_library(options);
        load(library, bundle);
        for (const std::string& file : bundle.extra_files) {
            if (file.substr(file.rfind('/') + 1) == kPluginLibrary) {
                auto* registry = library.function<GetRegistry>("getPluginRegistry")();
                load_plugins(*registry, *log_, bundle, file, device);
            }
        }
        deserialise(bundle);
        check_tensors();
    }

    ~TensorRTBackend() override
    {
        const cuda::OnDevice here;
        engine_.reset();
        runtime_.reset();
    }

    std::unique_ptr<Stream> stream(const SessionOptions& options) override
    {
        const cuda::OnDevice here;
        cuda::require(here.error(), "choose the first GPU");
        auto made = std::make_unique<TensorRTStream>(context(), contract_, build_command_, *log_, mutex_, options);
        made->prepare();
        return made;
    }

private:
    void load(const Library& library, const Bundle& bundle)
    {
        const Version version = version_of(library.function<GetVersion>("getInferLibVersion")());
        require_release(library.path(), version, kMajor);
        require_version(bundle, version);
        version_ = text_of(version);
        auto* create = library.function<CreateRuntime>("createInferRuntime_INTERNAL");
        runtime_.reset(static_cast<nvinfer1::IRuntime*>(create(&*log_, NV_TENSORRT_VERSION)));
        if (!runtime_) {
            throw Error(Code::missing, log_->explained("TensorRT " + version_ + " made no runtime"),
                "a GPU that it can use, with a driver that is new enough for it", "qdbev-deploy doctor --for tensorrt");
        }
    }

    void deserialise(const Bundle& bundle)
    {
        if (bundle.version_compatible) {
            runtime_->setEngineHostCodeAllowed(true);  // such a plan brings the runtime that it was built with
        }
        if (bundle.dla_core) {
            runtime_->setDLACore(*bundle.dla_core);
        }
        const std::vector<char> plan = bundle.read(bundle.engine_file);
        static_cast<void>(log_->take());
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!engine_) {
            throw Error(Code::bad_input,
                log_->explained("TensorRT " + version_ + " did not take the plan " + bundle.engine_file),
                "a plan that this TensorRT built on a GPU like this one", "build it again here: " + build_command_);
        }
    }

    void check_tensors() const
    {
        const Tensors found = tensors_of(*engine_), wanted = tensors_of(contract_);
        if (found != wanted) {
            throw Error(Code::bad_input, "the plan has other tensors than its bundle: " + difference(found, wanted),
                "what the bundle's contract says: " + difference(wanted, found),
                "build it again here: " + build_command_);
        }
    }

    std::unique_ptr<nvinfer1::IExecutionContext> context()
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        static_cast<void>(log_->take());
        std::unique_ptr<nvinfer1::IExecutionContext> made(engine_->createExecutionContext());
        if (!made) {
            throw Error(Code::missing, log_->explained("TensorRT made no execution context"),
                std::to_string(context_bytes(*engine_)) + " bytes of free device memory",
                "end what else uses the GPU, or open fewer sessions");
        }
        return made;
    }

    const Contract contract_;  // not the bundle's, which may move
    const std::string build_command_;
    const EngineLog log_;
    std::string version_;
    std::mutex mutex_;  // one context is made, or ended, at a time
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
};

}  // namespace

}  // namespace trt

std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const EngineOptions& options)
{
    return std::make_unique<trt::TensorRTBackend>(bundle, options);
}

}  // namespace qdbev::runtime
