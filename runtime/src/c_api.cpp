// The C interface: from C structures to the classes and back, with every exception turned into a code.
#include "qdbev_runtime/c_api.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "qdbev_runtime/engine.h"

namespace rt = qdbev::runtime;

namespace {

struct LoggerOf {
    qdbev_rt_logger logger;
    void* user;

    static void log(rt::Severity severity, const char* sentence, void* self)
    {
        const auto& to = *static_cast<const LoggerOf*>(self);
        to.logger(static_cast<int32_t>(severity), sentence, to.user);
    }
};

}  // namespace

// Both keep what the engine's backend logs to, as a session may outlive its engine's handle.
struct qdbev_rt_engine {
    std::shared_ptr<LoggerOf> logger;
    rt::Engine engine;
};

struct qdbev_rt_session {
    std::shared_ptr<LoggerOf> logger;
    rt::Session session;
};

namespace {

// A box of the one interface is one of the other.
static_assert(sizeof(qdbev_rt_box) == sizeof(rt::Box));
static_assert(offsetof(qdbev_rt_box, size) == offsetof(rt::Box, size));
static_assert(offsetof(qdbev_rt_box, yaw) == offsetof(rt::Box, yaw));
static_assert(offsetof(qdbev_rt_box, velocity) == offsetof(rt::Box, velocity));
static_assert(offsetof(qdbev_rt_box, score) == offsetof(rt::Box, score));
static_assert(offsetof(qdbev_rt_box, label) == offsetof(rt::Box, label));
static_assert(QDBEV_RT_CAMERAS == rt::kCameras && QDBEV_RT_CLASSES == rt::kClasses);

void write_error(char* error, std::size_t size, const char* sentence) noexcept
{
    if (error != nullptr && size != 0) {
        const std::size_t length = std::min(size - 1, std::strlen(sentence));
        std::memcpy(error, sentence, length);
        error[length] = '\0';
    }
}

// The one place where exceptions end.
template <typename Function>
int32_t guarded(char* error, std::size_t size, Function&& function) noexcept
{
    write_error(error, size, "");
    try {
        const rt::Status status = function();
        write_error(error, size, status.message());
        return static_cast<int32_t>(status.code());
    } catch (const rt::Error& refused) {
        write_error(error, size, refused.what());
        return static_cast<int32_t>(refused.code());
    } catch (const std::bad_alloc&) {
        write_error(error, size, "memory ran out");
    } catch (const std::exception& failure) {
        write_error(error, size, failure.what());
    } catch (...) {
        write_error(error, size, "an unknown exception");
    }
    return QDBEV_RT_FAILED;
}

rt::Status missing_argument(const char* what) noexcept
{
    return {rt::Code::usage, what, "an argument that is not null", "see qdbev_runtime/c_api.h"};
}

// Structures of this release are known in full; a longer one comes from a later header, and what it adds is unknown.
template <typename Structure>
bool usable(const Structure* structure) noexcept
{
    return structure != nullptr && structure->size == sizeof(Structure);
}

rt::Status other_size(const char* what) noexcept
{
    return {rt::Code::usage, what, "a structure of this library's size, made by its function",
        "initialise it with qdbev_rt_new_... or qdbev_rt_default_..., and compile with this library's header"};
}

template <typename Structure>
Structure sized() noexcept
{
    Structure structure{};
    structure.size = sizeof(Structure);
    return structure;
}

template <std::size_t Size>
void copy(const double (&from)[Size], std::array<double, Size>& to) noexcept
{
    std::copy(std::begin(from), std::end(from), to.begin());
}

rt::Frame frame_of(const qdbev_rt_frame& given) noexcept
{
    rt::Frame frame;
    if (given.image != nullptr) {
        frame.images = rt::ImageTensor{
            given.image, given.image_memory == QDBEV_RT_DEVICE ? rt::Memory::device : rt::Memory::host};
    } else {
        rt::CameraImages cameras;
        std::copy(std::begin(given.cameras), std::end(given.cameras), cameras.data.begin());
        cameras.row_bytes = given.row_bytes;
        cameras.bgr = given.bgr != 0;
        frame.images = cameras;
    }
    frame.lidar2img = given.lidar2img;
    frame.scene = given.scene == nullptr ? "" : given.scene;
    frame.ego.timestamp_us = given.timestamp_us;
    copy(given.translation, frame.ego.translation);
    copy(given.rotation, frame.ego.rotation);
    copy(given.acceleration, frame.ego.acceleration);
    copy(given.rotation_rate, frame.ego.rotation_rate);
    copy(given.velocity, frame.ego.velocity);
    return frame;
}

}  // namespace

const char* qdbev_rt_version(void)
{
    return QDBEV_RUNTIME_VERSION;
}

qdbev_rt_engine_options qdbev_rt_default_engine_options(void)
{
    return sized<qdbev_rt_engine_options>();
}

qdbev_rt_session_options qdbev_rt_default_session_options(void)
{
    return sized<qdbev_rt_session_options>();
}

qdbev_rt_frame qdbev_rt_new_frame(void)
{
    auto frame = sized<qdbev_rt_frame>();
    frame.rotation[0] = 1;
    return frame;
}

qdbev_rt_output qdbev_rt_new_output(void)
{
    return sized<qdbev_rt_output>();
}

qdbev_rt_contract qdbev_rt_new_contract(void)
{
    return sized<qdbev_rt_contract>();
}

int32_t qdbev_rt_open(const char* bundle, const qdbev_rt_engine_options* options, qdbev_rt_engine** engine, char* error,
    size_t error_size)
{
    return guarded(error, error_size, [&]() -> rt::Status {
        if (bundle == nullptr || engine == nullptr) {
            return missing_argument("no bundle, or no place for the engine");
        }
        *engine = nullptr;
        const qdbev_rt_engine_options chosen = options == nullptr ? qdbev_rt_default_engine_options() : *options;
        if (!usable(&chosen)) {
            return other_size("engine options of another size");
        }
        rt::EngineOptions opened;
        opened.backend_library = chosen.backend_library == nullptr ? "" : chosen.backend_library;
        opened.threads = chosen.threads;
        std::shared_ptr<LoggerOf> logger;
        if (chosen.logger != nullptr) {
            logger = std::make_shared<LoggerOf>(LoggerOf{chosen.logger, chosen.logger_user});
            opened.logger = &LoggerOf::log;
            opened.logger_user = logger.get();
        }
        *engine = new qdbev_rt_engine{logger, rt::Engine::open(bundle, opened)};
        return {};
    });
}

void qdbev_rt_close(qdbev_rt_engine* engine)
{
    delete engine;
}

int32_t qdbev_rt_describe(const qdbev_rt_engine* engine, qdbev_rt_contract* contract, char* error, size_t error_size)
{
    return guarded(error, error_size, [&]() -> rt::Status {
        if (engine == nullptr) {
            return missing_argument("no engine");
        }
        if (!usable(contract)) {
            return other_size("a contract of another size, or none");
        }
        const rt::Contract& known = engine->engine.contract();
        contract->variant = known.variant.c_str();
        contract->backend = engine->engine.backend().c_str();
        contract->precision = engine->engine.precision().c_str();
        std::transform(known.cameras.begin(), known.cameras.end(), contract->cameras,
            [](const std::string& name) { return name.c_str(); });
        std::transform(known.classes.begin(), known.classes.end(), contract->classes,
            [](const std::string& name) { return name.c_str(); });
        contract->source_height = known.preprocess.source.height;
        contract->source_width = known.preprocess.source.width;
        contract->queries = known.queries;
        contract->max_boxes = known.max_boxes;
        contract->image_bytes = known.inputs[0].bytes();
        contract->state_bytes = known.outputs[0].bytes();
        return {};
    });
}

int32_t qdbev_rt_scale_lidar2img(
    const qdbev_rt_engine* engine, const double* native, float* scaled, char* error, size_t error_size)
{
    return guarded(error, error_size, [&]() -> rt::Status {
        if (engine == nullptr || native == nullptr || scaled == nullptr) {
            return missing_argument("no engine, or no projections");
        }
        rt::scale_lidar2img(native, engine->engine.contract().preprocess, scaled);
        return {};
    });
}

int32_t qdbev_rt_new_session(const qdbev_rt_engine* engine, const qdbev_rt_session_options* options,
    qdbev_rt_session** session, char* error, size_t error_size)
{
    return guarded(error, error_size, [&]() -> rt::Status {
        if (engine == nullptr || session == nullptr) {
            return missing_argument("no engine, or no place for the session");
        }
        *session = nullptr;
        const qdbev_rt_session_options chosen = options == nullptr ? qdbev_rt_default_session_options() : *options;
        if (!usable(&chosen)) {
            return other_size("session options of another size");
        }
        rt::SessionOptions opened;
        opened.cuda_graph = chosen.cuda_graph != 0;
        opened.wait = chosen.wait == QDBEV_RT_SPIN ? rt::Wait::spin : rt::Wait::block;
        opened.timed = chosen.timed != 0;
        opened.min_score = chosen.min_score;
        opened.max_gap_s = chosen.max_gap_s;
        *session = new qdbev_rt_session{engine->logger, engine->engine.session(opened)};
        return {};
    });
}

void qdbev_rt_end_session(qdbev_rt_session* session)
{
    delete session;
}

int32_t qdbev_rt_step(qdbev_rt_session* session, const qdbev_rt_frame* frame, qdbev_rt_output* output, char* error,
    size_t error_size)
{
    return guarded(error, error_size, [&]() -> rt::Status {
        if (session == nullptr) {
            return missing_argument("no session");
        }
        if (!usable(frame) || !usable(output)) {
            return other_size("a frame or an output of another size, or none");
        }
        rt::StepOutput stepped;
        if (rt::Status status = session->session.step(frame_of(*frame), stepped); !status.ok()) {
            return status;
        }
        output->boxes = reinterpret_cast<const qdbev_rt_box*>(stepped.boxes);
        output->count = stepped.count;
        output->reset = stepped.reset ? 1 : 0;
        output->reset_reason = stepped.reset_reason;
        output->prepare_ms = stepped.times.prepare;
        output->upload_ms = stepped.times.upload;
        output->compute_ms = stepped.times.compute;
        output->download_ms = stepped.times.download;
        output->decode_ms = stepped.times.decode;
        output->total_ms = stepped.times.total;
        return {};
    });
}

void qdbev_rt_reset(qdbev_rt_session* session)
{
    if (session != nullptr) {
        session->session.reset();
    }
}

void* qdbev_rt_image_buffer(qdbev_rt_session* session, int32_t memory)
{
    const auto where = memory == QDBEV_RT_DEVICE ? rt::Memory::device : rt::Memory::host;
    return session == nullptr ? nullptr : session->session.image_buffer(where);
}

void* qdbev_rt_cuda_stream(qdbev_rt_session* session)
{
    return session == nullptr ? nullptr : session->session.cuda_stream();
}

int32_t qdbev_rt_read_state(qdbev_rt_session* session, void* out, size_t bytes, char* error, size_t error_size)
{
    return guarded(error, error_size, [&]() -> rt::Status {
        return session == nullptr ? missing_argument("no session") : session->session.read_state(out, bytes);
    });
}
