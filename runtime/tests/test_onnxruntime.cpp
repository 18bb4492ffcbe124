// The ONNX Runtime backend on small models, which tests/runtime/test_onnxruntime_backend.py writes into the folder that
// is named first; the library comes second. Or "state MODEL LIBRARY FUSED": prints the state's words after a frame.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <numeric>
#include <thread>

#include "backend.h"
#include "check.h"

namespace {

using namespace qdbev::runtime;
using check::contains;

constexpr std::size_t kState = 8, kHead = 20;
using State = std::array<float, kState>;

std::string folder, library;

Bundle bundle_of(const std::string& model)
{
    Bundle bundle;
    bundle.path = "small.qdbev";
    bundle.engine_file = model;
    bundle.build_command = "qdbev-deploy build small.onnx";
    bundle.provider = "CPUExecutionProvider";
    bundle.threads = 1;
    const bool half = std::filesystem::path(model).stem() == "half";
    const TensorSpec state{"prev_bev", half ? DType::float16 : DType::float32, {4, 1, 2}};
    bundle.contract.inputs = {{"image", DType::float32, {1, 6, 3, 2, 2}}, state, {"use_prev_bev", DType::float32, {1}},
        {"can_bus", DType::float32, {18}}, {"lidar2img", DType::float32, {1, 6, 4, 4}}};
    bundle.contract.outputs = {{"bev_embed", state.dtype, state.shape},
        {"outputs_classes", DType::float32, {1, 1, 2, 10}}, {"outputs_coords", DType::float32, {1, 1, 2, 10}}};
    return bundle;
}

EngineOptions options_of(const std::string& name = library)
{
    EngineOptions options;
    options.backend_library = name;
    return options;
}

std::unique_ptr<Backend> opened(const std::string& model)
{
    return open_onnxruntime(bundle_of(folder + "/" + model), options_of());
}

// Fails with another code, and does not if there was no Error at all.
template <class Function>
std::string refusal(Code code, Function&& function)
{
    try {
        function();
    } catch (const Error& error) {
        return error.code() == code ? error.what() : "of another code: " + std::string(error.what());
    }
    return "";
}

std::string open_refusal(Code code, const Bundle& bundle, const EngineOptions& options)
{
    return refusal(code, [&] { open_onnxruntime(bundle, options); });
}

// What a frame of the small models is made from, and what it makes of it.
struct Numbers {
    float image = 0;      // the sum of the image
    bool use_prev = false;
    float can_bus_0 = 0;  // 0 to 2; else the run fails
    float can_bus_17 = 0;
    float lidar2img_95 = 0;
};

State next_state(const State& last, const Numbers& numbers)
{
    State next{};
    for (std::size_t i = 0; i < kState; ++i) {
        next[i] = (numbers.use_prev ? 2 * last[i] : 0) + numbers.image + static_cast<float>(i);
    }
    return next;
}

void give(Stream& stream, const Numbers& numbers)
{
    const Stream::Inputs& inputs = stream.inputs();
    static_cast<float*>(inputs.image)[0] = 1;
    static_cast<float*>(inputs.image)[71] = numbers.image - 1;
    *inputs.use_prev_bev = numbers.use_prev ? 1.0F : 0.0F;
    inputs.can_bus[0] = numbers.can_bus_0;
    inputs.can_bus[17] = numbers.can_bus_17;
    inputs.lidar2img[95] = numbers.lidar2img_95;
}

Status run(Stream& stream, const Numbers& numbers)
{
    give(stream, numbers);
    Times times;
    return stream.run(nullptr, times);
}

State state_of(Stream& stream)
{
    State state{};
    CHECK(stream.read_state(state.data()).ok());
    return state;
}

// What is read where nothing was written yet is not a number, and use_prev_bev decides whether it is read.
void the_first_frame()
{
    const auto backend = opened("plain.onnx");
    const auto stream = backend->stream({});
    for (const float value : state_of(*stream)) {
        CHECK(std::isnan(value));
    }
    CHECK(run(*stream, {3, true}).ok());
    for (const float value : state_of(*stream)) {
        CHECK(std::isnan(value));
    }
    CHECK(run(*stream, {3, false}).ok());
    CHECK(state_of(*stream) == next_state({}, {3, false}));
}

void every_input_reaches_the_model()
{
    const auto backend = opened("plain.onnx");
    const auto stream = backend->stream({});
    CHECK(run(*stream, {1, false, 2, 5, 7}).ok());
    for (std::size_t i = 0; i < kHead; ++i) {
        // The table's entry, then the weighted sum.
        CHECK(stream->classes()[i] == static_cast<float>(i) + 200 + 2 + 18 * 5);
        CHECK(stream->coords()[i] == static_cast<float>(i) + 96 * 7);
    }
}

void the_state_is_carried()
{
    const auto backend = opened("plain.onnx");
    const auto stream = backend->stream({});
    const Stream::Inputs inputs = stream->inputs();
    State expected{};
    for (int frame = 0; frame < 7; ++frame) {
        const Numbers numbers{static_cast<float>(frame), frame != 0 && frame != 4};
        CHECK(run(*stream, numbers).ok());
        expected = next_state(expected, numbers);
        CHECK(state_of(*stream) == expected);
    }
    CHECK(inputs.image == stream->inputs().image && inputs.can_bus == stream->inputs().can_bus);
    for (const void* buffer : {static_cast<const void*>(inputs.image), static_cast<const void*>(inputs.use_prev_bev),
             static_cast<const void*>(inputs.can_bus), static_cast<const void*>(inputs.lidar2img)}) {
        CHECK(reinterpret_cast<uintptr_t>(buffer) % 64 == 0);
    }
    CHECK(stream->device_image() == nullptr);
    CHECK(stream->cuda_stream() == nullptr);
}

void half_precision_states()
{
    const auto backend = opened("half.onnx");
    const auto stream = backend->stream({});
    std::array<uint16_t, kState> words{};
    CHECK(stream->read_state(words.data()).ok());
    for (const uint16_t word : words) {
        CHECK(word == 0x7e00);
    }
    CHECK(run(*stream, {1, false}).ok());
    CHECK(stream->read_state(words.data()).ok());
    CHECK(words[0] == 0x3c00 && words[1] == 0x4000 && words[7] == 0x4800);  // 1, 2, 8
    CHECK(run(*stream, {1, true}).ok());
    CHECK(stream->read_state(words.data()).ok());
    CHECK(words[0] == 0x4200 && words[1] == 0x4600 && words[7] == 0x4e00);  // 3, 6, 24
}

struct Logged {
    int errors = 0, others = 0;
    std::string last;
};

void log_to(Severity severity, const char* sentence, void* logged)
{
    auto& to = *static_cast<Logged*>(logged);
    ++(severity == Severity::error ? to.errors : to.others);
    to.last = sentence;
}

void a_failed_run_keeps_the_state()
{
    Logged logged;
    EngineOptions options = options_of();
    options.logger = log_to;
    options.logger_user = &logged;
    const auto backend = open_onnxruntime(bundle_of(folder + "/plain.onnx"), options);
    const auto stream = backend->stream({});
    CHECK(run(*stream, {1, false}).ok());
    CHECK(run(*stream, {2, true}).ok());
    const State kept = state_of(*stream);
    const float logit = stream->classes()[3], code = stream->coords()[3];
    const auto holds = [&] {
        return state_of(*stream) == kept && stream->classes()[3] == logit && stream->coords()[3] == code;
    };
    for (int attempt = 0; attempt < 3; ++attempt) {
        const Status status = run(*stream, {100, true, 7});
        CHECK(status.code() == Code::failed);
        CHECK(contains(status.message(), "Gather node. Name:'picks'"));
        CHECK(contains(status.message(), "idx=7"));
        CHECK(contains(status.message(), "Next: "));
        CHECK(std::strchr(status.message(), '\n') == nullptr);
        CHECK(holds());
    }
    for (int again = 0; again < 2; ++again) {
        CHECK(run(*stream, {4, true, 1, 3, 5}).ok() && !holds());
        stream->undo();
        CHECK(holds());
    }
    CHECK(logged.errors == 3 && logged.others == 0);
    CHECK(contains(logged.last, "picks"));
    CHECK(run(*stream, {3, true}).ok());
    CHECK(state_of(*stream) == next_state(kept, {3, true}));
}

void a_logger_that_throws_harms_nobody()
{
    EngineOptions options = options_of();
    options.logger = [](Severity, const char*, void*) { throw std::runtime_error("no log today"); };
    const auto backend = open_onnxruntime(bundle_of(folder + "/plain.onnx"), options);
    const auto stream = backend->stream({});
    CHECK(run(*stream, {1, false, 7}).code() == Code::failed);
    CHECK(run(*stream, {1, false}).ok());
}

void streams_are_apart()
{
    const auto backend = opened("plain.onnx");
    const auto drive = [&](float first, Wait wait, bool& same) {
        SessionOptions options;
        options.wait = wait;
        const auto stream = backend->stream(options);
        State expected{};
        same = true;
        for (int frame = 0; frame < 200; ++frame) {
            const Numbers numbers{first + static_cast<float>(frame % 5), frame % 6 != 0};
            same = same && run(*stream, numbers).ok();
            expected = next_state(expected, numbers);
            State state{};
            same = same && stream->read_state(state.data()).ok() && state == expected;
        }
    };
    std::array<bool, 4> same{};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < same.size(); ++i) {
        threads.emplace_back(
            [&, i] { drive(static_cast<float>(10 * i), i % 2 == 0 ? Wait::block : Wait::spin, same[i]); });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    for (const bool one : same) {
        CHECK(one);
    }
}

void times_are_told_when_asked()
{
    const auto backend = opened("plain.onnx");
    for (const bool timed : {false, true}) {
        SessionOptions options;
        options.timed = timed;
        const auto stream = backend->stream(options);
        give(*stream, {});
        Times times;
        CHECK(stream->run(nullptr, times).ok());
        CHECK(timed ? times.compute > 0 && times.compute < 10'000 : times.compute < 0);
        CHECK(times.upload < 0 && times.download < 0);
    }
}

std::ptrdiff_t threads_now()
{
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
}

// How many threads an engine adds to the process.
std::ptrdiff_t threads_of(int32_t built, int32_t asked)
{
    Bundle bundle = bundle_of(folder + "/plain.onnx");
    bundle.threads = built;
    EngineOptions options = options_of();
    options.threads = asked;
    const std::ptrdiff_t before = threads_now();
    const auto backend = open_onnxruntime(bundle, options);
    return threads_now() - before;
}

void threads_are_those_asked_for()
{
    const auto environment = opened("plain.onnx");  // whose own threads are then there already
    const std::ptrdiff_t none = threads_of(1, 0);
    CHECK(threads_of(3, 0) == none + 2);  // the caller's thread is the first
    CHECK(threads_of(1, 4) == none + 3);
    CHECK(threads_of(4, 1) == none);

    // Who spins has a session of their own, and its threads; it is loaded when the first one asks, once.
    EngineOptions three = options_of();
    three.threads = 3;
    const auto backend = open_onnxruntime(bundle_of(folder + "/plain.onnx"), three);
    SessionOptions spinning;
    spinning.wait = Wait::spin;
    const std::ptrdiff_t before = threads_now();
    const auto blocks = backend->stream({});
    CHECK(threads_now() == before);
    const auto spins = backend->stream(spinning), spins_too = backend->stream(spinning);
    CHECK(threads_now() == before + 2);
    for (const int32_t threads : {-1, 5000}) {
        EngineOptions options = options_of();
        options.threads = threads;
        CHECK(contains(open_refusal(Code::usage, bundle_of(folder + "/plain.onnx"), options),
            (std::to_string(threads) + " threads").c_str()));
    }
}

void libraries_that_are_none()
{
    const Bundle bundle = bundle_of(folder + "/plain.onnx");
    std::string said = open_refusal(Code::missing, bundle, options_of("/nowhere/libonnxruntime.so"));
    CHECK(contains(said, "/nowhere/libonnxruntime.so") && contains(said, "ONNX Runtime 1.18 or newer"));
    CHECK(contains(said, "QDBEV_ONNXRUNTIME_LIBRARY"));
    said = open_refusal(Code::missing, bundle, options_of("libm.so.6"));
    CHECK(contains(said, "has no function OrtGetApiBase"));
    said = open_refusal(Code::missing, bundle, options_of(folder + "/libold.so"));
    CHECK(contains(said, "ONNX Runtime 1.9.0, from ") && contains(said, "libold.so; needed: ONNX Runtime 1.18"));

    // The variable is asked where the options say nothing.
    setenv("QDBEV_ONNXRUNTIME_LIBRARY", library.c_str(), 1);
    CHECK(open_refusal(Code::missing, bundle, options_of("")).empty());
    setenv("QDBEV_ONNXRUNTIME_LIBRARY", "/variable/libonnxruntime.so", 1);
    CHECK(contains(open_refusal(Code::missing, bundle, options_of("")), "/variable/libonnxruntime.so"));
    CHECK(open_refusal(Code::missing, bundle, options_of()).empty());
    unsetenv("QDBEV_ONNXRUNTIME_LIBRARY");
}

void models_that_are_none()
{
    const EngineOptions options = options_of();
    std::string said = open_refusal(Code::bad_input, bundle_of(folder + "/damaged.onnx"), options);
    CHECK(contains(said, "ONNX Runtime cannot load damaged.onnx: "));
    CHECK(contains(said, "build it again: qdbev-deploy build small.onnx"));
    CHECK(contains(
        open_refusal(Code::bad_input, bundle_of(folder + "/nothing.onnx"), options), "nothing.onnx is not there"));

    said = open_refusal(Code::bad_input, bundle_of(folder + "/wrong.onnx"), options);
    CHECK(contains(
        said, "the model's input can_bus: element type 11 [18]; image: float32 [1, 6, 3, 2, ?]; more: uint8 [1]"));
    CHECK(contains(said, "contract says: can_bus: float32 [18]; image: float32 [1, 6, 3, 2, 2]; more: none. Next"));

    Bundle bundle = bundle_of(folder + "/plain.onnx");
    bundle.contract.outputs[2].name = "boxes";
    said = open_refusal(Code::bad_input, bundle, options);
    CHECK(contains(said, "the model's output boxes: none; outputs_coords: float32 [1, 1, 2, 10]; needed"));
}

void providers()
{
    Bundle bundle = bundle_of(folder + "/plain.onnx");
    bundle.provider = "CUDAExecutionProvider";
    const std::string said = open_refusal(Code::missing, bundle, options_of());
    const bool has_none = contains(said, "built for ONNX Runtime's CUDAExecutionProvider, and ")
        && contains(said, ", has ") && contains(said, "CPUExecutionProvider; needed");
    // A library made for GPUs loads it, or says what it lacks.
    CHECK(has_none || contains(said, "CUDAExecutionProvider does not load: ") || said.empty());
    bundle.provider = "QuantumExecutionProvider";
    CHECK(contains(open_refusal(Code::missing, bundle, options_of()), "QuantumExecutionProvider"));
    bundle.provider = "";
    CHECK(open_refusal(Code::missing, bundle, options_of()).empty());

    SessionOptions graph;
    graph.cuda_graph = true;
    CHECK(contains(refusal(Code::usage, [&] { opened("plain.onnx")->stream(graph); }), "a CUDA graph"));
}

int print_state(const std::string& model, bool fused)
{
    Bundle bundle = bundle_of(model);
    bundle.fused = fused;
    const auto backend = open_onnxruntime(bundle, options_of());
    const auto stream = backend->stream({});
    for (std::size_t i = 0; i < 72; ++i) {
        static_cast<float*>(stream->inputs().image)[i] =
            static_cast<float>(static_cast<int>(i * 37 % 101) - 50) * 0.05F;
    }
    Times times;
    if (const Status status = stream->run(nullptr, times); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.message());
        return 1;
    }
    std::array<uint32_t, kState> words{};
    CHECK(stream->read_state(words.data()).ok());
    for (const uint32_t word : words) {
        std::printf("%08x\n", word);
    }
    return check::failures;
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc == 5 && std::strcmp(argv[1], "state") == 0) {
        library = argv[3];
        return print_state(argv[2], std::strcmp(argv[4], "1") == 0);
    }
    if (argc != 3) {
        std::fprintf(stderr, "test_onnxruntime FOLDER LIBRARY\n");
        return 2;
    }
    folder = argv[1];
    library = argv[2];
    the_first_frame();
    every_input_reaches_the_model();
    the_state_is_carried();
    half_precision_states();
    a_failed_run_keeps_the_state();
    a_logger_that_throws_harms_nobody();
    streams_are_apart();
    times_are_told_when_asked();
    threads_are_those_asked_for();
    libraries_that_are_none();
    models_that_are_none();
    providers();
    return check::report();
}
