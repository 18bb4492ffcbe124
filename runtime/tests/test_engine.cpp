// Engine and Session over a backend that only remembers, from both interfaces: what reaches it, what its device gives,
// and that it outlives its streams.
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "backend.h"
#include "both_interfaces.h"
#include "check.h"
#include "small_bundle.h"

namespace {

using namespace qdbev::runtime;
using check::contains;

// What the last backend and the last stream were asked for, and the last run was given.
struct Asked {
    std::string backend, library;
    int32_t threads = 0;
    std::vector<SessionOptions> sessions;
    const void* device_image = nullptr;
};
Asked g_asked;
int g_backends = 0, g_streams = 0;

char g_cuda_stream, g_device_image, g_other_device_image;

class RememberingStream final : public Stream {
public:
    explicit RememberingStream(const Contract& contract)
        : image_(contract.inputs[0].bytes()), classes_(contract.outputs[1].elements(), -9.0F),
          coords_(contract.outputs[2].elements())
    {
        inputs_ = {image_.data(), &use_prev_, can_bus_.data(), lidar2img_.data()};
        ++g_streams;
    }
    ~RememberingStream() override
    {
        CHECK(g_backends > 0);  // which may end after it, not before
        --g_streams;
    }

    const Inputs& inputs() noexcept override { return inputs_; }
    void* device_image() noexcept override { return &g_device_image; }
    void* cuda_stream() const noexcept override { return &g_cuda_stream; }
    Status run(const void* device_image, Times& times) noexcept override
    {
        g_asked.device_image = device_image;
        times.upload = 11;
        times.compute = 12;
        times.download = 13;
        return {};
    }
    void undo() noexcept override {}
    const float* classes() const noexcept override { return classes_.data(); }
    const float* coords() const noexcept override { return coords_.data(); }
    Status read_state(void*) noexcept override { return {Code::failed, "a device that is lost", "one", "restart"}; }

private:
    std::vector<unsigned char> image_;
    std::vector<float> classes_, coords_;
    float use_prev_ = 0;
    std::array<float, kCanBus> can_bus_{};
    std::array<float, kLidar2Img> lidar2img_{};
    Inputs inputs_;
};

class RememberingBackend final : public Backend {
public:
    explicit RememberingBackend(Contract contract) : contract_(std::move(contract)) { ++g_backends; }
    ~RememberingBackend() override { --g_backends; }

    std::unique_ptr<Stream> stream(const SessionOptions& options) override
    {
        g_asked.sessions.push_back(options);
        return std::make_unique<RememberingStream>(contract_);
    }

private:
    const Contract contract_;
};

std::unique_ptr<Backend> opened(const char* name, const Bundle& bundle, const EngineOptions& options)
{
    g_asked = {name, options.backend_library, options.threads, {}, nullptr};
    return std::make_unique<RememberingBackend>(bundle.contract);
}

}  // namespace

// In the place of the library's own.
std::unique_ptr<Backend> qdbev::runtime::open_onnxruntime(const Bundle& bundle, const EngineOptions& options)
{
    return opened("onnxruntime", bundle, options);
}

std::unique_ptr<Backend> qdbev::runtime::open_tensorrt(const Bundle& bundle, const EngineOptions& options)
{
    return opened("tensorrt", bundle, options);
}

namespace {

std::string bundle;

Frame frame_on_the_device(const void* image)
{
    static const std::array<float, kLidar2Img> lidar2img{};
    Frame frame;
    frame.images = ImageTensor{image, Memory::device};
    frame.lidar2img = lidar2img.data();
    return frame;
}

void a_session_keeps_its_engine()
{
    std::optional<Session> session;
    {
        const Engine engine = Engine::open(bundle);
        CHECK(engine.backend() == "onnxruntime" && g_asked.backend == "onnxruntime");
        session.emplace(engine.session());
    }
    CHECK(g_backends == 1 && g_streams == 1);
    StepOutput output;
    CHECK(session->step(frame_on_the_device(&g_other_device_image), output).ok());
    session.reset();
    CHECK(g_backends == 0 && g_streams == 0);

    qdbev_rt_engine* engine_in_c = nullptr;
    qdbev_rt_session* session_in_c = nullptr;
    CHECK(qdbev_rt_open(bundle.c_str(), nullptr, &engine_in_c, nullptr, 0) == QDBEV_RT_DONE);
    CHECK(qdbev_rt_new_session(engine_in_c, nullptr, &session_in_c, nullptr, 0) == QDBEV_RT_DONE);
    qdbev_rt_close(engine_in_c);
    CHECK(g_backends == 1 && g_streams == 1);
    qdbev_rt_end_session(session_in_c);
    CHECK(g_backends == 0 && g_streams == 0);
}

void what_was_moved_away()
{
    Engine engine = Engine::open(bundle);
    const Engine taken = std::move(engine);
    CHECK(contains(check::refusal([&] { const Session none = engine.session(); }), "an engine that was moved away"));
    Session session = taken.session();
    Session kept = std::move(session);
    StepOutput output;
    char state = 0;
    const Frame frame = frame_on_the_device(&g_device_image);
    CHECK(contains(session.step(frame, output).message(), "a session that was moved away"));
    CHECK(session.read_state(&state, 1).code() == Code::usage);
    CHECK(session.image_buffer() == nullptr && session.cuda_stream() == nullptr);
    CHECK(session.classes() == nullptr && session.coords() == nullptr);
    session.reset();
    CHECK(kept.step(frame, output).ok() && kept.classes() != nullptr && kept.coords() != nullptr);
    CHECK(kept.classes() != kept.coords());
    session = std::move(kept);
    CHECK(session.classes() != nullptr && g_streams == 1);
}

void options_reach_the_backend()
{
    EngineOptions opening;
    opening.backend_library = "libsome.so";
    opening.threads = 3;
    both::Outcome done;
    const both::CEngine engine = both::open_in_c(bundle, opening, done);
    CHECK(done == both::Outcome{} && g_asked.library == "libsome.so" && g_asked.threads == 3);
    SessionOptions options;
    options.cuda_graph = true;
    const both::CSession graphed = both::session_in_c(engine.get(), options, done);
    options = {};
    options.timed = true;
    options.wait = Wait::spin;
    const both::CSession timed = both::session_in_c(engine.get(), options, done);
    CHECK(done == both::Outcome{} && g_asked.sessions.size() == 2);
    const SessionOptions &first = g_asked.sessions[0], &second = g_asked.sessions[1];
    CHECK(first.cuda_graph && !first.timed && first.wait == Wait::block);
    CHECK(!second.cuda_graph && second.timed && second.wait == Wait::spin);
    options.wait = static_cast<Wait>(2);
    CHECK(both::session_in_c(engine.get(), options, done) == nullptr && done.code == QDBEV_RT_USAGE);
    CHECK(g_asked.sessions.size() == 2);  // refused before there is a stream
}

void what_is_the_devices_own()
{
    both::Outcome done;
    const both::CEngine engine = both::open_in_c(bundle, {}, done);
    const both::CSession in_c = both::session_in_c(engine.get(), {}, done);
    const Engine engine_in_cpp = Engine::open(bundle);
    Session in_cpp = engine_in_cpp.session();
    CHECK(qdbev_rt_cuda_stream(in_c.get()) == &g_cuda_stream && in_cpp.cuda_stream() == &g_cuda_stream);
    CHECK(qdbev_rt_image_buffer(in_c.get(), QDBEV_RT_DEVICE) == &g_device_image);
    CHECK(in_cpp.image_buffer(Memory::device) == &g_device_image);
    CHECK(qdbev_rt_image_buffer(in_c.get(), QDBEV_RT_HOST) != nullptr);
    CHECK(qdbev_rt_image_buffer(in_c.get(), QDBEV_RT_HOST) != &g_device_image);

    const Frame frame = frame_on_the_device(&g_other_device_image);
    StepOutput output;
    CHECK(in_cpp.step(frame, output).ok() && g_asked.device_image == &g_other_device_image);
    CHECK(output.times.upload == 11 && output.times.compute == 12 && output.times.download == 13);
    g_asked.device_image = nullptr;
    std::string scene;
    const qdbev_rt_frame given = both::as_c(frame, scene);
    qdbev_rt_output told;
    qdbev_rt_init_output(&told, sizeof told);
    CHECK(qdbev_rt_step(in_c.get(), &given, &told, nullptr, 0) == QDBEV_RT_DONE);
    CHECK(g_asked.device_image == &g_other_device_image);
    CHECK(told.upload_ms == 11 && told.compute_ms == 12 && told.download_ms == 13);

    // The state is the backend's to read, and its failure is told.
    std::vector<char> state(engine_in_cpp.contract().outputs[0].bytes());
    CHECK(in_cpp.read_state(state.data(), state.size()).code() == Code::failed);
    CHECK(qdbev_rt_read_state(in_c.get(), state.data(), state.size(), nullptr, 0) == QDBEV_RT_FAILED);
}

}  // namespace

int main()
{
    const small_bundle::TemporaryFolder folder;
    bundle = (folder.path() / "small.qdbev").string();
    small_bundle::write(bundle);
    a_session_keeps_its_engine();
    what_was_moved_away();
    options_reach_the_backend();
    what_is_the_devices_own();
    return check::report();
}
