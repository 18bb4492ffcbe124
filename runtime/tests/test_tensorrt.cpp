// The TensorRT backend against the doubles of CUDA and TensorRT (trt_double/README.md).
#include <dlfcn.h>
#include <sys/utsname.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "backend.h"
#include "check.h"
#include "cuda_double.h"
#include "nvinfer_double.h"
#include "tensorrt/compatibility.h"
#include "tensorrt/plugins.h"

namespace {

using namespace qdbev::runtime;
using cuda_double::machine;
using nvinfer1::DataType;

namespace fs = std::filesystem;

constexpr int kMajor = QDBEV_TRT_DOUBLE_MAJOR;
const std::string kHere = kMajor == 8 ? "8.6.0" : "10.3.0";
const std::string kCommand = "qdbev-deploy build tiny.onnx -o tiny.qdbev";

nvinfer_double::Control& control()
{
    static auto* const made = [] {
        void* library = dlopen(QDBEV_NVINFER_DOUBLE, RTLD_NOW | RTLD_LOCAL);
        auto* get = reinterpret_cast<nvinfer_double::Control* (*)()>(dlsym(library, "nvinfer_double_control"));
        return get();
    }();
    return *made;
}

// A folder of the test's own.
class Folder {
public:
    Folder()
    {
        std::string name = (fs::temp_directory_path() / "qdbev-tensorrt-XXXXXX").string();
        path_ = mkdtemp(name.data());
    }
    ~Folder() { fs::remove_all(path_); }
    std::string operator/(const std::string& name) const { return (path_ / name).string(); }

    std::string write(const std::string& name, const std::string& text) const
    {
        std::ofstream(path_ / name, std::ios::binary) << text;
        return *this / name;
    }

private:
    fs::path path_;
};

Contract small_contract()
{
    Contract contract;
    contract.inputs = {{"image", DType::float32, {1, 6, 3, 2, 2}}, {"prev_bev", DType::float32, {4, 1, 3}},
        {"use_prev_bev", DType::float32, {1}}, {"can_bus", DType::float32, {18}},
        {"lidar2img", DType::float32, {1, 6, 4, 4}}};
    contract.outputs = {{"bev_embed", DType::float32, {4, 1, 3}}, {"outputs_classes", DType::float32, {1, 1, 2, 10}},
        {"outputs_coords", DType::float32, {1, 1, 2, 10}}};
    return contract;
}

std::vector<nvinfer_double::Tensor> tensors_of(const Contract& contract)
{
    std::vector<nvinfer_double::Tensor> tensors;
    for (const TensorSpec& spec : contract.inputs) {
        tensors.push_back({spec.name, true, DataType::kFLOAT, spec.shape});
    }
    for (const TensorSpec& spec : contract.outputs) {
        tensors.push_back({spec.name, false, DataType::kFLOAT, spec.shape});
    }
    return tensors;
}

std::string processor()
{
    utsname names{};
    uname(&names);
    return names.machine;
}

Bundle small_bundle(const Folder& folder)
{
    Bundle bundle;
    bundle.path = folder / "tiny.qdbev";
    bundle.contract = small_contract();
    bundle.backend = "tensorrt";
    bundle.engine_file = folder.write("engine.plan", nvinfer_double::kPlan);
    bundle.build_command = kCommand;
    bundle.machine = processor();
    bundle.gpu = Gpu{"Orin", {8, 7}};
    bundle.tensorrt_version = kHere;
    return bundle;
}

EngineOptions plain_options()
{
    EngineOptions options;
    options.backend_library = QDBEV_NVINFER_DOUBLE;
    return options;
}

void start_anew()
{
    machine() = {};
    control() = {};
    control().tensors = tensors_of(small_contract());
    cuda_double::fail_nothing();
    cuda_double::forget();
    unsetenv("QDBEV_TENSORRT_LIBRARY");
}

// Nothing lives any more, nothing was misused, no error was left for others to find.
void nothing_is_left()
{
    for (const std::string& what : cuda_double::misused()) {
        std::fprintf(stderr, "misused: %s\n", what.c_str());
    }
    CHECK(cuda_double::misused().empty());
    CHECK(cuda_double::live().all() == 0);
    CHECK(control().contexts == 0 && control().engines == 0 && control().runtimes == 0);
    CHECK(cudaGetLastError() == cudaSuccess);
}

// The Error with which a bundle does not open; Code::done where it does.
struct Refused {
    Code code = Code::done;
    std::string text, next;
};

Refused refused(const std::function<void()>& function)
{
    try {
        function();
    } catch (const Error& error) {
        return {error.code(), error.what(), error.next_step()};
    }
    return {};
}

Refused opened(const Bundle& bundle, const EngineOptions& options = plain_options())
{
    return refused([&] { open_tensorrt(bundle, options); });
}

void is_refused(const Refused& refused, Code code, const std::vector<const char*>& parts, const char* next)
{
    CHECK(refused.code == code);
    for (const char* part : parts) {
        CHECK(check::contains(refused.text, part));
    }
    CHECK(check::contains(refused.next, next));
    if (refused.code != code || !check::contains(refused.next, next)) {
        std::fprintf(stderr, "it said: %s\n", refused.text.c_str());
    }
    nothing_is_left();
}

// ---------------------------------------------------------------------------------------------------------------------

void versions_are_read()
{
    using trt::version_of;
    CHECK(version_of("10.13.2.6.post1") == (trt::Version{10, 13, 2}) && version_of("8.6") == (trt::Version{8, 6, 0}));
    CHECK(version_of("") == trt::Version{} && version_of("newest") == trt::Version{});
    CHECK(version_of(8601) == (trt::Version{8, 6, 1}) && version_of(100300) == (trt::Version{10, 3, 0}));
    CHECK(version_of(101302) == (trt::Version{10, 13, 2}) && version_of(110100) == (trt::Version{11, 1, 0}));
    CHECK(trt::text_of({10, 13, 2}) == "10.13.2");
}

void architectures_are_read()
{
    using trt::runs_on;
    CHECK(runs_on("87", {8, 7}) && runs_on("80", {8, 7}) && !runs_on("89", {8, 7}) && runs_on("80", {9, 0}));
    CHECK(runs_on("80-real", {8, 7}) && !runs_on("80-real", {9, 0}) && runs_on("80-virtual", {9, 0}));
    CHECK(runs_on("90a", {9, 0}) && !runs_on("90a", {10, 0}) && runs_on("100f", {10, 3}) && !runs_on("100f", {12, 0}));
    CHECK(runs_on("110", {11, 0}) && !runs_on("120", {11, 0}));
    for (const char* none : {"", "9", "native", "90b", "90a-fast", "-90"}) {
        CHECK(!runs_on(none, {12, 0}));
    }
}

void machines_without_a_gpu(const Bundle& bundle)
{
    // Before the library is looked for: a missing GPU is what whoever is told can do least about.
    EngineOptions nowhere;
    nowhere.backend_library = "/nonexistent/libnvinfer.so";
    machine().driver = 0;
    is_refused(opened(bundle, nowhere), Code::missing, {"no driver", "NVIDIA's driver"}, "install the driver");
    start_anew();
    machine().counting = cudaErrorInsufficientDriver;
    machine().driver = 11040;
    is_refused(opened(bundle, nowhere), Code::missing, {"CUDA 11.4", "CUDA 12.4"}, "update the driver");
    start_anew();
    machine().counting = cudaErrorNoDevice;
    is_refused(opened(bundle, nowhere), Code::missing, {"the driver finds no GPU"}, "CUDA_VISIBLE_DEVICES");
    start_anew();
    machine().devices = 0;
    is_refused(opened(bundle, nowhere), Code::missing, {"the driver finds no GPU"}, "CUDA_VISIBLE_DEVICES");
    start_anew();
    machine().counting = cudaErrorIllegalAddress;
    is_refused(opened(bundle, nowhere), Code::missing, {"count the GPUs", "illegal memory"}, "nvidia-smi");
    start_anew();
    for (const char* function : {"cudaSetDevice", "cudaFree"}) {  // before TensorRT would find that out
        cuda_double::fail(function);
        is_refused(opened(bundle, nowhere), Code::missing, {"the first GPU: out of memory"}, "nvidia-smi");
    }
    start_anew();
}

void other_machines(Bundle bundle)
{
    bundle.machine = "aarch65";
    is_refused(opened(bundle), Code::missing, {"built on aarch65", "a machine with aarch65"}, kCommand.c_str());
    bundle.machine = "";
    CHECK(opened(bundle).code == Code::done);  // what is not stated is not compared

    machine().minor = 6;
    machine().name = "RTX A6000";
    is_refused(opened(bundle), Code::missing,
        {"built for Orin (compute capability 8.7), and here is RTX A6000 (8.6)", "the same compute capability"},
        kCommand.c_str());
    bundle.hardware_compatible = true;
    CHECK(opened(bundle).code == Code::done);
    machine().major = 7;
    is_refused(opened(bundle), Code::missing, {"and here is RTX A6000 (7.6)"}, kCommand.c_str());
    bundle.gpu.reset();
    bundle.machine = "aarch65";
    CHECK(opened(bundle).code == Code::done);  // tied to no GPU
    start_anew();
}

void libraries(const Bundle& bundle)
{
    EngineOptions options;
    setenv("QDBEV_TENSORRT_LIBRARY", "/nonexistent/libnvinfer.so", 1);
    is_refused(opened(bundle, options), Code::missing,
        {"no library loads", "/nonexistent/libnvinfer.so", kMajor == 8 ? "TensorRT 8" : "TensorRT 10"},
        "QDBEV_TENSORRT_LIBRARY");
    setenv("QDBEV_TENSORRT_LIBRARY", QDBEV_NVINFER_DOUBLE, 1);
    CHECK(opened(bundle, options).code == Code::done);
    unsetenv("QDBEV_TENSORRT_LIBRARY");

    options.backend_library = "libm.so.6";
    is_refused(opened(bundle, options), Code::missing, {"has no function getInferLibVersion"}, "install it");

    for (const int32_t version : {8500, 8701, 9200, 100200, kMajor == 8 ? 100300 : 8601, 120000}) {
        control().version = version;
        is_refused(opened(bundle), Code::missing, {" is TensorRT ", kMajor == 8 ? "8.6" : "10.3 or a later 10"},
            "-DTENSORRT_ROOT");
    }
    start_anew();

    control().makes_runtime = false;
    is_refused(opened(bundle), Code::missing,
        {"made no runtime: CUDA initialization failure with error: 35;", "a driver that is new enough"}, "doctor");
    start_anew();
    CHECK(opened(bundle).code == Code::done);
    CHECK(control().asked_version == NV_TENSORRT_VERSION && !control().host_code_allowed && control().dla_core == -1);
}

void versions(Bundle bundle)
{
    const int32_t later = NV_TENSORRT_VERSION + (kMajor == 8 ? 1 : 100);
    bundle.tensorrt_version = kMajor == 8 ? "10.3.0" : "8.6.1";
    is_refused(opened(bundle), Code::missing, {"and this runtime for TensorRT", "both of one major version"},
        kCommand.c_str());
    bundle.tensorrt_version = kHere;
    control().version = later;
    is_refused(opened(bundle), Code::missing,
        {("built with TensorRT " + kHere).c_str(), kMajor == 8 ? "8.6.1 is here" : "10.4.0 is here",
            "a plan is read by the version that wrote it"},
        kCommand.c_str());
    bundle.version_compatible = true;
    CHECK(opened(bundle).code == Code::done);
    CHECK(control().host_code_allowed);
    control().version = NV_TENSORRT_VERSION;
    bundle.tensorrt_version = kMajor == 8 ? "8.6.2" : "10.3.1.4";
    is_refused(opened(bundle), Code::missing, {"or a later ", "--version-compatible"}, kCommand.c_str());
    bundle.tensorrt_version = "";
    CHECK(opened(bundle).code == Code::done);  // not stated
    start_anew();
}

void plans(Bundle bundle, const Folder& folder)
{
    bundle.engine_file = folder.write("other.plan", nvinfer_double::kCompatiblePlan);
    is_refused(opened(bundle), Code::bad_input, {"did not take the plan", "which is not allowed;"}, kCommand.c_str());
    bundle.version_compatible = true;
    CHECK(opened(bundle).code == Code::done);
    bundle.engine_file = folder.write("other.plan", "something else");
    // Of two errors the first, which is the cause.
    is_refused(opened(bundle), Code::bad_input, {"did not take the plan", "magicTagRead == magicTag failed;"},
        kCommand.c_str());
    bundle.engine_file = folder / "absent.plan";
    is_refused(opened(bundle), Code::bad_input, {"absent.plan is not there"}, "copy the bundle again");
    bundle.engine_file = folder / "engine.plan";
    bundle.dla_core = 1;
    CHECK(opened(bundle).code == Code::done && control().dla_core == 1);
    start_anew();

    const auto with = [&bundle](const std::function<void(std::vector<nvinfer_double::Tensor>&)>& change) {
        control().tensors = tensors_of(small_contract());
        change(control().tensors);
        return opened(bundle);
    };
    is_refused(with([](auto& tensors) { tensors[1].shape[0] = 5; }), Code::bad_input,
        {"other tensors than its bundle: prev_bev an input float32 [5, 1, 3];",
            "what the bundle's contract says: prev_bev an input float32 [4, 1, 3]"},
        kCommand.c_str());
    is_refused(with([](auto& tensors) { tensors[0].type = DataType::kUINT8; }), Code::bad_input,
        {"image an input uint8 [1, 6, 3, 2, 2];", "image an input float32 [1, 6, 3, 2, 2]"}, kCommand.c_str());
    is_refused(with([](auto& tensors) { tensors[0].shape.back() = -1; }), Code::bad_input, {"2, -1];"},
        kCommand.c_str());
    is_refused(with([](auto& tensors) { tensors[3].input = false; }), Code::bad_input, {"can_bus an output float32"},
        kCommand.c_str());
    is_refused(with([](auto& tensors) { tensors[7].name = "boxes"; }), Code::bad_input,
        {"boxes an output float32 [1, 1, 2, 10], outputs_coords none;",
            "outputs_coords an output float32 [1, 1, 2, 10], boxes none"},
        kCommand.c_str());
    is_refused(with([](auto& tensors) { tensors.pop_back(); }), Code::bad_input, {"outputs_coords none;"},
        kCommand.c_str());
    is_refused(with([](auto& tensors) { tensors[2].type = DataType::kHALF; }), Code::bad_input,
        {"use_prev_bev an input float16 [1]"}, kCommand.c_str());
    start_anew();
}

void plugin_descriptions()
{
    const qdbev::runtime::cuda::Device orin{"Orin", {8, 7}};
    const auto problems = [&orin](const std::string& architectures, const std::string& tensorrt,
                              const std::string& abi = "1") {
        return trt::plugin_problems("{\"version\": \"1\", \"abi\": " + abi + ", \"cuda_architectures\": "
                + architectures + ", \"tensorrt\": " + tensorrt + ", \"ops\": []}",
            orin, 10);
    };
    CHECK(problems("\"80,90\"", "\"10.3.0\"").empty() && problems("\"90,87\"", "\"10.13.0\"").empty());
    CHECK(problems("\"89,90a\"", "\"10.3.0\"") == "no kernels for Orin (sm_87)");
    CHECK(problems("null", "null") == "TensorRT needs the CUDA kernels; TensorRT cannot load it");
    CHECK(problems("\"80\"", "\"8.6.1\"") == "it is for TensorRT 8.6.1, and TensorRT 10 is here");
    CHECK(problems("\"80\"", "\"101.0\"") == "it is for TensorRT 101.0, and TensorRT 10 is here");
    CHECK(problems("null", "null", "2") == "its ABI is 2, and this runtime speaks 1");
    CHECK(trt::plugin_problems("{}", orin, 10) == "its ABI is not stated, and this runtime speaks 1");
    CHECK(refused([&] { trt::plugin_problems("", orin, 10); }).code == Code::bad_input);
}

void plugins(Bundle bundle, const Folder& folder)
{
    const std::string here = folder / "libqdbev_plugins.so";
    bundle.extra_files = {folder / "notes.txt", here};
    is_refused(opened(bundle), Code::bad_input, {"libqdbev_plugins.so is not there"}, "copy the bundle again");
    folder.write("libqdbev_plugins.so", "no library");
    is_refused(opened(bundle), Code::missing, {"no library loads", "libqdbev_plugins.so"}, kCommand.c_str());
    fs::remove(here);  // what was loaded must not be written over
    fs::copy_file(QDBEV_PLUGINS_DOUBLE, here);
    machine().major = 7;
    bundle.gpu.reset();
    is_refused(opened(bundle), Code::missing, {"no kernels for Orin (sm_77)"}, kCommand.c_str());
    start_anew();
    control().takes_plugins = false;
    is_refused(opened(bundle), Code::missing,
        {"did not take the plugins",
            "(MSDeformAttn, TemporalSelfAttn, SpatialCrossAttn, ModulatedDeformSample unknown)",
            ": the library exports no creators;"},
        kCommand.c_str());
    start_anew();
    control().ops.pop_back();
    is_refused(opened(bundle), Code::missing, {"(ModulatedDeformSample unknown)"}, kCommand.c_str());
    start_anew();
    control().libraries = {"of somebody else, with ops of the same names"};
    control().takes_plugins = false;
    is_refused(opened(bundle), Code::missing, {"libqdbev_plugins.so: the library exports no creators;"},
        kCommand.c_str());
    start_anew();

    CHECK(opened(bundle).code == Code::done);
    CHECK(control().libraries == std::vector<std::string>{here});
    CHECK(opened(bundle).code == Code::done);  // again
    fs::create_directory(folder / "copy");
    const std::string copy = folder / "copy/libqdbev_plugins.so";
    fs::copy_file(QDBEV_PLUGINS_DOUBLE, copy);
    bundle.extra_files = {copy};
    CHECK(opened(bundle).code == Code::done);  // elsewhere, and the same
    CHECK(control().libraries.size() == 1);
    std::ofstream(copy, std::ios::app | std::ios::binary) << "another";
    is_refused(opened(bundle), Code::bad_input,
        {"copy/libqdbev_plugins.so is another plugin library than", here.c_str(), "one plugin library in a process"},
        "in a process of its own");
    CHECK(control().libraries.size() == 1);
    start_anew();
}

// ---------------------------------------------------------------------------------------------------------------------

// A sequence of frames on a stream, and what the arithmetic of the double makes of it.
class Sequence {
public:
    explicit Sequence(Stream& stream, float seed = 1) : stream_(stream), seed_(seed) {}

    // Writes the inputs of a frame, but for its image where that lies elsewhere.
    void stage(int frame, bool image = true)
    {
        const Stream::Inputs& inputs = stream_.inputs();
        image_.resize(72);
        for (size_t i = 0; i < image_.size(); ++i) {
            image_[i] = seed_ * static_cast<float>(frame) + static_cast<float>(i);
        }
        if (image) {
            std::copy(image_.begin(), image_.end(), static_cast<float*>(inputs.image));
        } else {
            std::fill_n(static_cast<float*>(inputs.image), 72, -1e6F);  // must not be read
        }
        for (size_t i = 0; i < 18; ++i) {
            inputs.can_bus[i] = static_cast<float>(frame * 2) - static_cast<float>(i);
        }
        for (size_t i = 0; i < 96; ++i) {
            inputs.lidar2img[i] = static_cast<float>(i) / 4 + static_cast<float>(frame);
        }
        *inputs.use_prev_bev = expected_.empty() ? 0.0F : 1.0F;
    }
    const std::vector<float>& image() const { return image_; }

    // What the frame that was staged makes of the last good one.
    void expect()
    {
        const Stream::Inputs& inputs = stream_.inputs();
        std::vector<float> next(12);
        for (size_t i = 0; i < next.size(); ++i) {
            next[i] = 1 + image_[i] + inputs.can_bus[i] + 2 * inputs.lidar2img[i]
                + (expected_.empty() ? 0 : expected_[i] / 2);
        }
        expected_ = next;
    }

    bool holds()
    {
        std::vector<float> state(12);
        if (!stream_.read_state(state.data()).ok() || state != expected_) {
            return false;
        }
        for (size_t i = 0; i < 20; ++i) {
            if (stream_.classes()[i] != expected_[i % 12] + static_cast<float>(i)
                || stream_.coords()[i] != 3 * expected_[i % 12] - static_cast<float>(i)) {
                return false;
            }
        }
        return true;
    }

    // A run that is undone is as if it had not been.
    Status run_and_undo(int frame)
    {
        stage(frame);
        Times times;
        Status status = stream_.run(nullptr, times);
        stream_.undo();
        return status;
    }

    Status run(int frame)
    {
        stage(frame);
        Times times;
        Status status = stream_.run(nullptr, times);
        if (status.ok()) {
            expect();
        }
        return status;
    }

private:
    Stream& stream_;
    float seed_;
    std::vector<float> image_, expected_;
};

const std::vector<SessionOptions>& all_options()
{
    static const std::vector<SessionOptions> all = [] {
        std::vector<SessionOptions> made;
        for (const bool graph : {false, true}) {
            for (const Wait wait : {Wait::block, Wait::spin}) {
                for (const bool timed : {false, true}) {
                    SessionOptions options;
                    options.cuda_graph = graph;
                    options.wait = wait;
                    options.timed = timed;
                    made.push_back(options);
                }
            }
        }
        return made;
    }();
    return all;
}

void state_is_carried(Backend& backend, const SessionOptions& options)
{
    const auto stream = backend.stream(options);
    CHECK(stream->cuda_stream() != nullptr && stream->device_image() != nullptr);
    CHECK(stream->device_image() != stream->inputs().image);
    std::vector<float> state(12, 1.0F);
    CHECK(stream->read_state(state.data()).ok() && state == std::vector<float>(12, 0.0F));
    for (const float* input : {stream->inputs().use_prev_bev, stream->inputs().can_bus, stream->inputs().lidar2img}) {
        CHECK(*input == 0);
    }
    Sequence sequence(*stream);
    for (int frame = 0; frame < 5; ++frame) {
        CHECK(sequence.run(frame).ok());
        CHECK(sequence.holds());
    }
    // After the past is forgotten the buffers are as they are, and the flag says that they are not read.
    Sequence anew(*stream);
    CHECK(anew.run(9).ok() && anew.holds() && anew.run(10).ok() && anew.holds());
}

void waiting_and_times(Backend& backend, const SessionOptions& options)
{
    cuda_double::forget();
    const auto stream = backend.stream(options);
    const bool spin = options.wait == Wait::spin;
    CHECK(cuda_double::calls("cudaEventCreateWithFlags") == (options.timed ? 4 : 1));
    CHECK(((cuda_double::last_event_flags() & cudaEventBlockingSync) == 0) == spin);
    CHECK(((cuda_double::last_event_flags() & cudaEventDisableTiming) == 0) == options.timed);
    CHECK(cuda_double::calls("cudaStreamBeginCapture") == (options.cuda_graph ? 2 : 0));
    if (options.cuda_graph) {
        CHECK(cuda_double::last_capture_mode() == cudaStreamCaptureModeThreadLocal);
        CHECK(cuda_double::live().graphs == 0 && cuda_double::live().executables == 2);
    }

    Sequence sequence(*stream);
    sequence.stage(0);
    cuda_double::forget();
    Times times;
    CHECK(stream->run(nullptr, times).ok());
    const std::vector<std::string> timed{"event", "H2D 288", "H2D 4", "H2D 72", "H2D 384", "event", "network", "event",
        "D2H 80", "D2H 80", "event"};
    const std::vector<std::string> plain{
        "H2D 288", "H2D 4", "H2D 72", "H2D 384", "network", "D2H 80", "D2H 80", "event"};
    CHECK(cuda_double::executed() == (options.timed ? timed : plain));
    CHECK(cuda_double::calls("cudaGraphLaunch") == (options.cuda_graph ? 1 : 0));
    CHECK(cuda_double::calls("cudaEventSynchronize") == (spin ? 0 : 1));
    CHECK(cuda_double::calls("cudaEventQuery") == (spin ? machine().busy_queries + 1 : 0));
    CHECK(cuda_double::calls("cudaStreamSynchronize") == 0);
    CHECK(cuda_double::calls("cudaMalloc") == 0 && cuda_double::calls("cudaHostAlloc") == 0);
    CHECK(times.upload == (options.timed ? 4 : -1) && times.compute == (options.timed ? 10 : -1));
    CHECK(times.download == (options.timed ? 6 : -1) && times.total == -1);
    CHECK(cudaGetLastError() == cudaSuccess);

    machine().busy_queries = 0;  // done before it is asked
    CHECK(stream->run(nullptr, times).ok());
    machine() = {};
}

void images_on_the_device(Backend& backend, const SessionOptions& options)
{
    const auto stream = backend.stream(options);
    Sequence sequence(*stream);
    void* elsewhere = nullptr;
    CHECK(cudaMalloc(&elsewhere, 288) == cudaSuccess);
    for (int frame = 0; frame < 4; ++frame) {
        sequence.stage(frame, /*image=*/false);
        void* image = frame % 2 == 0 ? stream->device_image() : elsewhere;
        // As a program would: on the stream, before the frame.
        CHECK(cudaMemcpyAsync(image, sequence.image().data(), 288, cudaMemcpyHostToDevice,
                  static_cast<cudaStream_t>(stream->cuda_stream()))
            == cudaSuccess);
        CHECK(cudaStreamSynchronize(static_cast<cudaStream_t>(stream->cuda_stream())) == cudaSuccess);
        cuda_double::forget();
        Times times;
        CHECK(stream->run(image, times).ok());
        sequence.expect();
        CHECK(cuda_double::calls("cudaMemcpyAsync") == (frame % 2 == 0 ? 5 : 6));
        const auto executed = cuda_double::executed();
        CHECK(executed[options.timed ? 1 : 0] == (frame % 2 == 0 ? "H2D 4" : "D2D 288"));
        CHECK(!options.timed || times.upload == (frame % 2 == 0 ? 3 : 5));
        CHECK(sequence.holds());
    }
    CHECK(sequence.run(7).ok() && sequence.holds());  // and from the host again

    // What is no device memory is refused by CUDA, and the frame with it.
    sequence.stage(8);
    Times times;
    const Status status = stream->run(sequence.image().data(), times);
    CHECK(status.code() == Code::failed);
    CHECK(check::contains(status.message(), "copy a frame to the device: invalid argument"));
    CHECK(sequence.holds());
    cudaFree(elsewhere);
}

// A frame that fails leaves the last state and the last results, and nothing under way; the next one runs.
void failures_of_frames(Backend& backend, const SessionOptions& options)
{
    const auto stream = backend.stream(options);
    Sequence sequence(*stream);
    CHECK(sequence.run(1).ok() && sequence.run(2).ok());
    for (int again = 0; again < 2; ++again) {
        CHECK(sequence.run_and_undo(5).ok() && sequence.holds());
    }
    int frame = 3;
    const auto leaves_all = [&](const char* part) {
        const Status status = sequence.run(++frame);
        CHECK(status.code() == Code::failed);
        CHECK(check::contains(status.message(), part));
        if (!check::contains(status.message(), part)) {
            std::fprintf(stderr, "it said: %s\n", status.message());
        }
        CHECK(cudaGetLastError() == cudaSuccess);
        cuda_double::fail_nothing();
        cuda_double::forget();
        sequence.stage(99);  // a caller who writes the inputs anew
        CHECK(cudaStreamSynchronize(static_cast<cudaStream_t>(stream->cuda_stream())) == cudaSuccess);
        CHECK(cuda_double::executed().empty());
        CHECK(sequence.holds());
        CHECK(sequence.run(++frame).ok() && sequence.holds());
    };
    cuda_double::fail("cudaSetDevice", 0, cudaErrorInvalidDevice);
    leaves_all("CUDA failed to choose the first GPU");
    for (int after = 0; after < 6; ++after) {
        cuda_double::fail("cudaMemcpyAsync", after, cudaErrorInvalidValue);
        leaves_all(after < 4 ? "CUDA failed to copy a frame to the device: invalid argument"
                             : "CUDA failed to copy the results from the device: invalid argument");
    }
    for (int after = 0; after < (options.timed ? 4 : 1); ++after) {
        cuda_double::fail("cudaEventRecord", after);
        leaves_all("CUDA failed to mark the ");
    }
    cuda_double::fail(options.wait == Wait::spin ? "cudaEventQuery" : "cudaEventSynchronize", 0);
    leaves_all("CUDA failed to finish a frame: out of memory");
    if (options.wait == Wait::spin) {
        cuda_double::fail("cudaEventQuery", 2);  // after some that were not ready
        leaves_all("CUDA failed to finish a frame");
    }
    for (int after = 0; after < (options.timed ? 11 : 8); ++after) {
        cuda_double::fail_execution(after);
        leaves_all("CUDA failed to finish a frame: an illegal memory access was encountered");
    }
    if (options.timed) {
        cuda_double::fail("cudaEventElapsedTime", 1);
        leaves_all("CUDA failed to read the times of a frame");
    }
    if (options.cuda_graph) {
        cuda_double::fail("cudaGraphLaunch");
        leaves_all("CUDA failed to launch the graph of a frame");
    } else {
        control().enqueues_until_failure = 0;
        leaves_all("TensorRT failed to run the network: the enqueue failed as the test asked; needed");
    }
    cuda_double::fail("cudaMemcpyAsync", 0, cudaErrorInvalidValue);
    std::vector<float> state(12);
    Status status = stream->read_state(state.data());
    CHECK(check::contains(status.message(), "copy the state from the device: invalid argument"));
    cuda_double::fail_execution();
    status = stream->read_state(state.data());
    CHECK(check::contains(status.message(), "copy the state from the device: an illegal memory access"));
    cuda_double::fail_nothing();
    CHECK(sequence.holds());
}

// Whatever fails while a stream is made, all of it is given back.
void failures_of_making(Backend& backend, const SessionOptions& options)
{
    const auto fails_until = [&](const char* function, const std::function<void(int)>& arrange) {
        int times = 0;
        for (bool made = false; !made && times < 100; ++times) {
            arrange(times);
            const Refused outcome = refused([&] { backend.stream(options); });
            made = outcome.code == Code::done;
            CHECK(made || outcome.code == Code::missing || outcome.code == Code::failed);
            CHECK(cuda_double::live().all() == 0 && control().contexts == 0);
            CHECK(cudaGetLastError() == cudaSuccess);
            cuda_double::fail_nothing();
            control().enqueues_until_failure = -1;
        }
        if (times < 2 || times == 100) {
            std::fprintf(stderr, "%s failed %d times\n", function, times - 1);
        }
        CHECK(times >= 2 && times < 100);
    };
    cuda_double::forget();
    for (const char* function : {"cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags",
             "cudaMemsetAsync", "cudaSetDevice"}) {
        fails_until(function, [function](int after) { cuda_double::fail(function, after); });
    }
    fails_until("execution", [](int after) { cuda_double::fail_execution(after); });
    fails_until("enqueue", [](int after) { control().enqueues_until_failure = after; });
    if (options.cuda_graph) {
        for (const char* function : {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags",
                 "cudaGraphUpload"}) {
            fails_until(function, [function](int after) { cuda_double::fail(function, after); });
        }
        control().waits_in_enqueue = true;
        const Refused outcome = refused([&] { backend.stream(options); });
        CHECK(outcome.code == Code::missing && check::contains(outcome.text, "capture a graph"));
        control().waits_in_enqueue = false;
    }
    cuda_double::fail("cudaMalloc", 2);
    const Refused no_memory = refused([&] { backend.stream(options); });
    CHECK(check::contains(no_memory.text, "CUDA failed to allocate 72 bytes: out of memory"));
    cuda_double::fail_nothing();
    control().makes_context = false;
    const Refused no_context = refused([&] { backend.stream(options); });
    CHECK(no_context.code == Code::missing
        && check::contains(no_context.text, "no execution context: out of device memory; needed: 4096 bytes"));
    control().makes_context = true;
    for (const char* tensor : {"image", "outputs_coords"}) {
        control().refused_address = tensor;
        const Refused no_place = refused([&] { backend.stream(options); });
        const std::string part = "no place for the tensor '" + std::string(tensor) + "': there is no";
        CHECK(no_place.code == Code::bad_input && check::contains(no_place.text, part.c_str()));
        CHECK(check::contains(no_place.next, kCommand.c_str()));
    }
    for (const char* tensor : {"prev_bev", "bev_embed"}) {
        control().refused_address = tensor;
        const Refused not_run = refused([&] { backend.stream(options); });
        CHECK(not_run.code == Code::failed && check::contains(not_run.text, "did not run the network: there is no"));
    }
    control().refused_address.clear();
    CHECK(cuda_double::misused().empty() && cuda_double::live().all() == 0 && control().contexts == 0);
}

void several_streams(Backend& backend)
{
    std::vector<std::unique_ptr<Stream>> streams;
    for (const SessionOptions& options : all_options()) {
        streams.push_back(backend.stream(options));
    }
    std::vector<Sequence> sequences;
    for (size_t i = 0; i < streams.size(); ++i) {
        sequences.emplace_back(*streams[i], static_cast<float>(i + 1));
    }
    for (int frame = 0; frame < 4; ++frame) {  // one after another,
        for (Sequence& sequence : sequences) {
            CHECK(sequence.run(frame).ok());
        }
    }
    for (Sequence& sequence : sequences) {
        CHECK(sequence.holds());
    }
    std::vector<std::thread> threads;  // and each in a thread, which has another GPU as its own
    std::vector<char> good(sequences.size(), 0);
    machine().devices = 2;
    for (size_t i = 0; i < sequences.size(); ++i) {
        threads.emplace_back([&sequences, &good, i] {
            bool holds = cudaSetDevice(1) == cudaSuccess;
            for (int frame = 4; frame < 12; ++frame) {
                holds = holds && sequences[i].run(frame).ok() && sequences[i].holds();
            }
            int device = 0;
            cudaGetDevice(&device);
            good[i] = holds && device == 1 ? 1 : 0;
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    CHECK(good == std::vector<char>(good.size(), 1));
    machine() = {};
}

// What the program queued on the stream itself is waited for, and nothing is freed under it.
void ends_with_work_to_do(Backend& backend)
{
    const std::vector<float> image(72, 1.0F);
    const auto stream = backend.stream({});
    CHECK(cudaMemcpyAsync(stream->device_image(), image.data(), 288, cudaMemcpyHostToDevice,
              static_cast<cudaStream_t>(stream->cuda_stream()))
        == cudaSuccess);
}

// ---------------------------------------------------------------------------------------------------------------------

struct Heard {
    std::vector<std::pair<Severity, std::string>> sentences;
    bool throws = false;
};

void hear(Severity severity, const char* sentence, void* user)
{
    auto* heard = static_cast<Heard*>(user);
    heard->sentences.emplace_back(severity, sentence);
    if (heard->throws) {
        throw std::runtime_error("a logger that throws");
    }
}

void loggers(const Bundle& bundle)
{
    using Its = nvinfer1::ILogger::Severity;
    Heard heard, other;
    EngineOptions options = plain_options();
    options.logger = hear;
    options.logger_user = &heard;
    auto backend = open_tensorrt(bundle, options);
    nvinfer1::ILogger* const its = control().logger;
    its->log(Its::kVERBOSE, "not this");
    its->log(Its::kINFO, "info");
    its->log(Its::kWARNING, "warning");
    its->log(Its::kINTERNAL_ERROR, "internal error");
    its->log(Its::kERROR, nullptr);
    const std::vector<std::pair<Severity, std::string>> wanted{
        {Severity::info, "info"}, {Severity::warning, "warning"}, {Severity::error, "internal error"}};
    CHECK(heard.sentences == wanted);
    heard.throws = true;
    its->log(Its::kERROR, std::string(1000, 'x').c_str());
    CHECK(heard.sentences.size() == 4 && heard.sentences[3].second.size() == 1000);

    options.logger_user = &other;
    auto second = open_tensorrt(bundle, options);  // which has its own
    CHECK(control().logger != its);
    control().logger->log(Its::kINFO, "to the other");
    CHECK(other.sentences.size() == 1 && heard.sentences.size() == 4);
    second.reset();
    backend.reset();
    // TensorRT keeps the first logger for good: it must live on, and the program's must not be called any more.
    its->log(Its::kINFO, "to nobody");
    CHECK(other.sentences.size() == 1 && heard.sentences.size() == 4);
    options.logger_user = &other;
    backend = open_tensorrt(bundle, options);
    control().logger->log(Its::kINFO, "again");
    CHECK(other.sentences.size() == 2 && heard.sentences.size() == 4);
    backend.reset();

    // What a Status says of them: of this failure, and cut rather than overrun.
    auto third = open_tensorrt(bundle, plain_options());
    const auto stream = third->stream({});
    control().enqueues_until_failure = 0;
    control().fails_silently = true;
    Times times;
    Status status = stream->run(nullptr, times);  // not with a warning from when the stream was made
    CHECK(check::contains(status.message(), "TensorRT failed to run the network; needed"));
    control().logger->log(Its::kWARNING, "an old warning");
    control().enqueues_until_failure = 0;
    control().fails_silently = false;
    status = stream->run(nullptr, times);
    CHECK(check::contains(status.message(), "as the test asked") && !check::contains(status.message(), "old warning"));
    control().logger->log(Its::kERROR, std::string(2000, 'y').c_str());
    control().enqueues_until_failure = 0;
    status = stream->run(nullptr, times);
    CHECK(check::contains(status.message(), std::string(200, 'y').c_str()));
    CHECK(std::string(status.message()).size() <= Status::kMaxLength);
}

}  // namespace

int main()
{
    const Folder folder;
    start_anew();
    const Bundle bundle = small_bundle(folder);
    versions_are_read();
    architectures_are_read();
    machines_without_a_gpu(bundle);
    other_machines(bundle);
    libraries(bundle);
    versions(bundle);
    plans(bundle, folder);
    plugin_descriptions();
    plugins(bundle, folder);
    {
        auto moved = std::make_unique<Bundle>(bundle);
        const auto backend = open_tensorrt(*moved, plain_options());
        moved.reset();  // the backend has what it needs of it
        for (const SessionOptions& options : all_options()) {
            state_is_carried(*backend, options);
            waiting_and_times(*backend, options);
            images_on_the_device(*backend, options);
            failures_of_frames(*backend, options);
            CHECK(cuda_double::misused().empty());
            failures_of_making(*backend, options);
        }
        several_streams(*backend);
        ends_with_work_to_do(*backend);
    }
    nothing_is_left();
    loggers(bundle);
    nothing_is_left();
    return check::report();
}
