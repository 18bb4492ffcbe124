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

// Of every structure the size in the first release that had it: what is shorter is none. Never to be changed.
template <typename Structure>
constexpr std::size_t kFirstSize = 0;
template <>
constexpr std::size_t kFirstSize<qdbev_rt_engine_options> = 40;
template <>
constexpr std::size_t kFirstSize<qdbev_rt_session_options> = 32;
template <>
constexpr std::size_t kFirstSize<qdbev_rt_contract> = 192;
template <>
constexpr std::size_t kFirstSize<qdbev_rt_frame> = 232;
template <>
constexpr std::size_t kFirstSize<qdbev_rt_output> = 96;

// Of a later header what it adds is unknown here, and must not be ignored.
template <typename Structure>
bool usable(const Structure* given) noexcept
{
    static_assert(sizeof(Structure) >= kFirstSize<Structure> && kFirstSize<Structure> != 0);
    return given != nullptr && given->size >= kFirstSize<Structure> && given->size <= sizeof(Structure);
}

rt::Status other_size(const char* what) noexcept
{
    return {rt::Code::usage, what, "a structure that its qdbev_rt_init_ function initialised",
        "initialise it with its sizeof; a program that is newer than this library needs the newer library"};
}

template <typename Structure>
void put(const Structure& from, Structure* to, std::size_t size) noexcept
{
    if (to != nullptr && size >= sizeof size) {
        std::memset(static_cast<void*>(to), 0, size);
        std::memcpy(static_cast<void*>(to), &from, std::min(size, sizeof from));
        std::memcpy(static_cast<void*>(to), &size, sizeof size);
    }
}

// What an earlier header's structure does not have is as by default.
template <typename Structure>
Structure taken(const Structure& given, Structure defaults = {}) noexcept
{
    std::memcpy(static_cast<void*>(&defaults), &given, given.size);
    return defaults;
}

qdbev_rt_frame default_frame() noexcept
{
    qdbev_rt_frame frame{};
    frame.rotation[0] = 1;
    return frame;
}

rt::Memory memory_of(int32_t memory) noexcept
{
    return static_cast<rt::Memory>(memory);  // what it may be is checked a floor below
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
        frame.images = rt::ImageTensor{given.image, memory_of(given.image_memory)};
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

void qdbev_rt_init_engine_options(qdbev_rt_engine_options* options, size_t size)
{
    put({}, options, size);
}

void qdbev_rt_init_session_options(qdbev_rt_session_options* options, size_t size)
{
    put({}, options, size);
}

void qdbev_rt_init_contract(qdbev_rt_contract* contract, size_t size)
{
    put({}, contract, size);
}

void qdbev_rt_init_frame(qdbev_rt_frame* frame, size_t size)
{
    put(default_frame(), frame, size);
}

void qdbev_rt_init_output(qdbev_rt_output* output, size_t size)
{
    put({}, output, size);
}

int32_t qdbev_rt_open(const char* bundle, const qdbev_rt_engine_options* options, qdbev_rt_engine** engine, char* error,
    size_t error_size)
{
    return guarded(error, error_size, [&]() -> rt::Status {
        if (engine != nullptr) {
            *engine = nullptr;
        }
        if (bundle == nullptr || engine == nullptr) {
            return missing_argument("no bundle, or no place for the engine");
        }
        if (options != nullptr && !usable(options)) {
            return other_size("engine options of another size");
        }
        const qdbev_rt_engine_options chosen = options == nullptr ? qdbev_rt_engine_options{} : taken(*options);
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
        qdbev_rt_contract described{};
        described.variant = known.variant.c_str();
        described.backend = engine->engine.backend().c_str();
        described.precision = engine->engine.precision().c_str();
        std::transform(known.cameras.begin(), known.cameras.end(), described.cameras,
            [](const std::string& name) { return name.c_str(); });
        std::transform(known.classes.begin(), known.classes.end(), described.classes,
            [](const std::string& name) { return name.c_str(); });
        described.source_height = known.preprocess.source.height;
        described.source_width = known.preprocess.source.width;
        described.queries = known.queries;
        described.max_boxes = known.max_boxes;
        described.image_bytes = known.inputs[0].bytes();
        described.state_bytes = known.outputs[0].bytes();
        put(described, contract, contract->size);
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
        if (session != nullptr) {
            *session = nullptr;
        }
        if (engine == nullptr || session == nullptr) {
            return missing_argument("no engine, or no place for the session");
        }
        if (options != nullptr && !usable(options)) {
            return other_size("session options of another size");
        }
        const qdbev_rt_session_options chosen = options == nullptr ? qdbev_rt_session_options{} : taken(*options);
        rt::SessionOptions opened;
        opened.cuda_graph = chosen.cuda_graph != 0;
        opened.wait = static_cast<rt::Wait>(chosen.wait);
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
        const qdbev_rt_frame given = taken(*frame, default_frame());
        if (rt::Status status = session->session.step(frame_of(given), stepped); !status.ok()) {
            return status;
        }
        qdbev_rt_output told{};
        told.boxes = reinterpret_cast<const qdbev_rt_box*>(stepped.boxes);
        told.count = stepped.count;
        told.box_bytes = sizeof(qdbev_rt_box);
        told.reset = stepped.reset ? 1 : 0;
        told.reset_reason = stepped.reset_reason;
        told.prepare_ms = stepped.times.prepare;
        told.upload_ms = stepped.times.upload;
        told.compute_ms = stepped.times.compute;
        told.download_ms = stepped.times.download;
        told.decode_ms = stepped.times.decode;
        told.total_ms = stepped.times.total;
        put(told, output, output->size);
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
    return session == nullptr ? nullptr : session->session.image_buffer(memory_of(memory));
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
