// The C interface against the C++ one, on the shared library and its public headers alone: every option and every field
// of the one does what it does in the other, to the bit. Where a field should matter, that it does is checked too.
//
//     c_against_cpp BUNDLE SAMPLES NATIVE_SAMPLES [FRAGILE]
//
// SAMPLES and NATIVE_SAMPLES are folders of --save-samples with two frames or more: for the image input, and camera
// frames. FRAGILE is a bundle of the same inputs whose runs fail where the car drives 1000 m/s.
//
// With MALLOC_PERTURB_ in the environment, what is used after its end does not go unnoticed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <thread>

#include "both_interfaces.h"
#include "check.h"
#include "qdbev_runtime/version.h"
#include "raising_new.h"
#include "samples.h"

namespace {

using namespace both;
using check::contains;
using check::Raise;
using Frames = std::vector<rt::Frame>;
using std::chrono::milliseconds;

std::string bundle;

// Names what does not hold: one CHECK serves many fields.
void holds(bool condition, const std::string& what)
{
    check::that(condition, what.c_str(), __FILE__, __LINE__);
}

rt::EngineOptions threads_of(int32_t threads)
{
    rt::EngineOptions options;
    options.threads = threads;
    return options;
}

rt::SessionOptions spinning()
{
    rt::SessionOptions options;
    options.wait = rt::Wait::spin;
    return options;
}

// One bundle opened through both.
struct Both {
    explicit Both(const std::string& path = bundle, const rt::EngineOptions& options = {})
        : cpp(rt::Engine::open(path, options))
    {
        Outcome opened;
        c = open_in_c(path, options, opened);
        holds(opened == Outcome{}, "opens in C: " + opened.sentence);
    }

    std::size_t state_bytes() const { return cpp.contract().outputs[0].bytes(); }

    CSession session_in_c(const rt::SessionOptions& options = {}) const
    {
        Outcome opened;
        CSession session = both::session_in_c(c.get(), options, opened);
        holds(opened == Outcome{}, "a session in C: " + opened.sentence);
        return session;
    }

    Outcomes run_in_cpp(const Frames& frames, const rt::SessionOptions& options = {}) const
    {
        rt::Session session = cpp.session(options);
        Outcomes outcomes;
        for (const rt::Frame& frame : frames) {
            outcomes.push_back(step(session, frame, state_bytes()));
        }
        return outcomes;
    }

    Outcomes run_in_c(const Frames& frames, const rt::SessionOptions& options = {}) const
    {
        const CSession session = session_in_c(options);
        Outcomes outcomes;
        for (const rt::Frame& frame : frames) {
            outcomes.push_back(step(session.get(), frame, state_bytes()));
        }
        return outcomes;
    }

    // The outcomes, which are those of both.
    Outcomes run(const std::string& what, const Frames& frames, const rt::SessionOptions& options = {}) const
    {
        Outcomes outcomes = run_in_cpp(frames, options);
        holds(run_in_c(frames, options) == outcomes, what + " in C as in C++");
        return outcomes;
    }

    rt::Engine cpp;
    CEngine c;
};

// A car that brakes in a bend, half a second later in every frame: no two of its numbers are the same.
rt::EgoState ego_at(int frame)
{
    const double t = 0.5 * frame;
    rt::EgoState ego;
    ego.timestamp_us = 1'000'000 + 500'000 * frame;
    ego.translation = {100 + 7 * t, 50 + 2 * t, 3 + 0.5 * t};
    ego.rotation = {std::cos(0.2 + 0.1 * t), 0.6 * std::sin(0.2 + 0.1 * t), 0, 0.8 * std::sin(0.2 + 0.1 * t)};
    ego.acceleration = {-1.5 + t, 0.7 + t, 9.8 - t};
    ego.rotation_rate = {0.11 + t, -0.23 + t, 0.37 - t};
    ego.velocity = {8 - t, 1.3 + t, -0.6 + t};
    return ego;
}

// The first `count` samples, as the image input or as camera frames.
Frames drive_of(const qdbev::apps::Samples& samples, bool native, int count)
{
    Frames frames;
    for (int i = 0; i < count; ++i) {
        rt::Frame frame = samples.frame(static_cast<std::size_t>(i));
        if (!native) {
            frame.images = rt::ImageTensor{samples.frames[static_cast<std::size_t>(i)].image, rt::Memory::host};
        }
        frame.ego = ego_at(i);
        frame.scene = "a bend";
        frames.push_back(frame);
    }
    return frames;
}

using Change = std::function<void(rt::Frame&)>;

// Each change of the last frame changes what comes of it, and in C as in C++.
void each_matters(const Both& both, const Frames& drive, const std::vector<std::pair<std::string, Change>>& changes)
{
    const Outcomes as_it_was = both.run("a drive", drive);
    for (const auto& [what, change] : changes) {
        Frames changed = drive;
        change(changed.back());
        holds(!(both.run(what, changed).back() == as_it_was.back()), what + " matters");
    }
}

void the_drive(const Both& both, const Frames& drive)
{
    const Outcomes outcomes = both.run("a drive", drive);
    CHECK(outcomes[0].code == 0 && outcomes[0].reset && outcomes[0].reason == "first frame");
    CHECK(outcomes[1].code == 0 && !outcomes[1].reset && outcomes[1].reason.empty());
    CHECK(!outcomes[0].boxes.empty() && outcomes[0].boxes != outcomes[1].boxes);
    CHECK(outcomes[0].state != outcomes[1].state);
    // Options that are null are the defaults.
    qdbev_rt_engine* engine = nullptr;
    qdbev_rt_session* session = nullptr;
    CHECK(qdbev_rt_open(bundle.c_str(), nullptr, &engine, nullptr, 0) == QDBEV_RT_DONE);
    const CEngine owned_engine(engine);
    CHECK(qdbev_rt_new_session(engine, nullptr, &session, nullptr, 0) == QDBEV_RT_DONE);
    const CSession owned_session(session);
    CHECK(step(session, drive[0], both.state_bytes()) == outcomes[0]);
}

void every_field_of_a_frame(const Both& both, const Frames& drive)
{
    std::vector<float> elsewhere(drive[0].lidar2img, drive[0].lidar2img + rt::kLidar2Img);
    elsewhere[3] += 50;
    const void* other_image = std::get<rt::ImageTensor>(drive[0].images).data;
    std::vector<std::pair<std::string, Change>> changes{
        {"scene", [](rt::Frame& frame) { frame.scene = "another bend"; }},
        {"timestamp", [](rt::Frame& frame) { frame.ego.timestamp_us += 60'000'000; }},
        {"a timestamp of the past", [](rt::Frame& frame) { frame.ego.timestamp_us = -5; }},
        {"rotation", [](rt::Frame& frame) { frame.ego.rotation = {0.5, 0.1, -0.7, 0.5}; }},
        {"a rotation that is none", [](rt::Frame& frame) { frame.ego.rotation = {2, 1, 0, 0}; }},
        {"lidar2img", [&](rt::Frame& frame) { frame.lidar2img = elsewhere.data(); }},
        {"no lidar2img", [](rt::Frame& frame) { frame.lidar2img = nullptr; }},
        {"image", [&](rt::Frame& frame) { frame.images = rt::ImageTensor{other_image, rt::Memory::host}; }},
        {"unknown memory",
            [&](rt::Frame& frame) { frame.images = rt::ImageTensor{other_image, static_cast<rt::Memory>(7)}; }},
    };
    if (both.cpp.backend() == "onnxruntime") {
        changes.emplace_back("device memory",
            [&](rt::Frame& frame) { frame.images = rt::ImageTensor{other_image, rt::Memory::device}; });
    }
    for (std::size_t axis = 0; axis < 3; ++axis) {
        const std::string name = " of axis " + std::to_string(axis);
        changes.emplace_back("translation" + name, [=](rt::Frame& frame) { frame.ego.translation[axis] += 5; });
        changes.emplace_back("acceleration" + name, [=](rt::Frame& frame) { frame.ego.acceleration[axis] += 5; });
        changes.emplace_back("rotation rate" + name, [=](rt::Frame& frame) { frame.ego.rotation_rate[axis] += 5; });
        changes.emplace_back("velocity" + name, [=](rt::Frame& frame) { frame.ego.velocity[axis] += 5; });
    }
    each_matters(both, drive, changes);
}

void every_field_of_camera_frames(const Both& both, const Frames& drive)
{
    const auto cameras_of = [](rt::Frame& frame) -> rt::CameraImages& {
        return std::get<rt::CameraImages>(frame.images);
    };
    std::vector<std::pair<std::string, Change>> changes{
        {"bgr", [&](rt::Frame& frame) { cameras_of(frame).bgr = true; }},
        {"rows that are too short", [&](rt::Frame& frame) { cameras_of(frame).row_bytes = 3; }},
    };
    for (std::size_t camera = 0; camera < rt::kCameras; ++camera) {
        const std::string name = "camera " + std::to_string(camera);
        changes.emplace_back(
            name, [=](rt::Frame& frame) { cameras_of(frame).data[camera] = cameras_of(frame).data[(camera + 1) % 6]; });
        changes.emplace_back(
            "no " + name, [=](rt::Frame& frame) { cameras_of(frame).data[camera] = nullptr; });
    }
    each_matters(both, drive, changes);

    // Rows with gaps are the same pictures.
    const rt::Size source = both.cpp.contract().preprocess.source;
    const std::size_t dense = 3 * static_cast<std::size_t>(source.width);
    const std::size_t height = static_cast<std::size_t>(source.height), gapped = dense + 64;
    std::vector<std::vector<uint8_t>> pictures(rt::kCameras, std::vector<uint8_t>(height * gapped, 99));
    Frames with_gaps = drive;
    rt::CameraImages& cameras = cameras_of(with_gaps.back());
    for (std::size_t camera = 0; camera < rt::kCameras; ++camera) {
        for (std::size_t row = 0; row < height; ++row) {
            std::memcpy(&pictures[camera][row * gapped], cameras.data[camera] + row * dense, dense);
        }
        cameras.data[camera] = pictures[camera].data();
    }
    cameras.row_bytes = gapped;
    CHECK(both.run("rows with gaps", with_gaps).back() == both.run_in_cpp(drive).back());
}

void every_option_of_a_session(const Both& both, const Frames& drive)
{
    const Outcomes as_it_was = both.run_in_cpp(drive);
    const auto* boxes = reinterpret_cast<const rt::Box*>(as_it_was.back().boxes.data());
    const std::size_t count = as_it_was.back().boxes.size() / sizeof(rt::Box);
    rt::SessionOptions options;
    options.min_score = boxes[count / 2].score;
    const std::size_t left = both.run("min_score", drive, options).back().boxes.size() / sizeof(rt::Box);
    CHECK(left > 0 && left < count);

    options = {};
    options.max_gap_s = 0.25;
    CHECK(both.run("a short max_gap_s", drive, options)[1].reason == "gap of 0.50 s");
    options.max_gap_s = 100;
    Frames late = drive;
    late.back().ego.timestamp_us += 60'000'000;
    CHECK(both.run("a long max_gap_s", late, options).back().reason.empty());
    CHECK(both.run("max_gap_s as by contract", late).back().reason == "gap of 60.50 s");

    const auto refused = [&](const char* what, const rt::SessionOptions& unusable, int32_t code) {
        const Outcome in_cpp = outcome([&] {
            const rt::Session session = both.cpp.session(unusable);
            return rt::Status();
        });
        Outcome in_c;
        const CSession session = session_in_c(both.c.get(), unusable, in_c);
        holds(in_cpp.code == code && in_c == in_cpp && session == nullptr, what);
    };
    for (const float score : {-0.5F, 1.5F, std::numeric_limits<float>::quiet_NaN()}) {
        options = {};
        options.min_score = score;
        refused("a min_score that is none", options, QDBEV_RT_USAGE);
    }
    for (const double gap : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
        options = {};
        options.max_gap_s = gap;
        refused("a max_gap_s that is none", options, QDBEV_RT_USAGE);
    }
    options = {};
    options.wait = static_cast<rt::Wait>(7);
    refused("an unknown way to wait", options, QDBEV_RT_USAGE);
    if (both.cpp.backend() == "onnxruntime") {
        options = {};
        options.cuda_graph = true;
        refused("a CUDA graph", options, QDBEV_RT_USAGE);
    }
}

// The least of the frames' times: another process may get into the way of one.
rt::Times least(const Outcomes& frames)
{
    rt::Times least = frames[0].times;
    for (const Outcome& frame : frames) {
        for (double rt::Times::* const part : {&rt::Times::prepare, &rt::Times::upload, &rt::Times::compute,
                 &rt::Times::download, &rt::Times::decode, &rt::Times::total}) {
            least.*part = std::min(least.*part, frame.times.*part);
        }
    }
    return least;
}

// On ONNX Runtime, which tells neither upload nor download.
void times(const Both& both, const Frames& native_drive)
{
    Frames drive = native_drive;
    for (int i = 1; i < 8; ++i) {
        drive.push_back(drive.back());
        drive.back().ego.timestamp_us += 500'000;
    }
    for (const bool timed : {false, true}) {
        rt::SessionOptions options;
        options.timed = timed;
        const auto started = std::chrono::steady_clock::now();
        const Outcomes in_c = both.run_in_c(drive, options);
        const std::chrono::duration<double, std::milli> all = std::chrono::steady_clock::now() - started;
        double sum = 0;
        for (const Outcomes& outcomes : {both.run_in_cpp(drive, options), in_c}) {
            const rt::Times told = least(outcomes);
            CHECK(timed ? told.compute > told.decode : told.compute < 0);
            CHECK(told.decode > 0 && told.prepare > told.decode);  // six pictures are more than some boxes
            sum = 0;
            for (const Outcome& frame : outcomes) {
                const rt::Times& parts = frame.times;
                CHECK(parts.upload < 0 && parts.download < 0);
                CHECK(parts.total >= parts.prepare + std::max(parts.compute, 0.0) + parts.decode - 1e-6);
                sum += parts.total;
            }
        }
        CHECK(sum < all.count());
    }
}

std::ptrdiff_t threads_now()
{
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
}

// One that was joined may be seen for a moment longer.
std::ptrdiff_t threads_at_rest()
{
    for (std::ptrdiff_t before = threads_now();;) {
        std::this_thread::sleep_for(milliseconds(10));
        if (const std::ptrdiff_t last = std::exchange(before, threads_now()); last == before) {
            return before;
        }
    }
}

// How many threads an engine, and a session that spins, add to the process.
template <typename Open>
void adds_threads(const char* what, std::ptrdiff_t engine_adds, std::ptrdiff_t session_adds, Open&& open)
{
    const std::ptrdiff_t before = threads_at_rest();
    std::ptrdiff_t opened = 0;
    const auto kept = open([&] { opened = threads_now(); });
    holds(opened == before + engine_adds, std::string(what) + ": the engine's threads");
    holds(threads_now() == opened + session_adds, std::string(what) + ": the session's threads");
}

// An operator's first thread is the caller's. Who spins has a model of their own, and its threads.
void threads_and_waiting()
{
    for (const int32_t threads : {1, 3}) {
        for (const bool spin : {false, true}) {
            const rt::SessionOptions session = spin ? spinning() : rt::SessionOptions{};
            adds_threads("C++", threads - 1, spin ? threads - 1 : 0, [&](auto&& opened) {
                rt::Engine engine = rt::Engine::open(bundle, threads_of(threads));
                opened();
                return std::make_pair(engine.session(session), std::move(engine));
            });
            adds_threads("C", threads - 1, spin ? threads - 1 : 0, [&](auto&& opened) {
                Outcome done;
                CEngine engine = open_in_c(bundle, threads_of(threads), done);
                opened();
                return std::make_pair(session_in_c(engine.get(), session, done), std::move(engine));
            });
        }
    }
}

// Milliseconds of all cores that the process takes while this thread sleeps.
double spent_while_asleep()
{
    const std::clock_t before = std::clock();
    std::this_thread::sleep_for(milliseconds(20));
    return 1e3 * static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
}

// After a frame ONNX Runtime's threads look for work where they spin, and sleep where they do not.
void spinning_spins(const Frames& drive)
{
    const Both both(bundle, threads_of(2));
    const auto spins = [&](auto&& session) {
        // Other processes may take the cores: once awake says enough, and asleep all the time.
        for (int attempt = 0; attempt < 10; ++attempt) {
            rt::Frame frame = drive[0];
            frame.ego.timestamp_us += 500'000 * attempt;
            if (step(session, frame, both.state_bytes()).code != 0) {
                return -1;
            }
            if (spent_while_asleep() > 5) {
                return 1;
            }
        }
        return 0;
    };
    rt::Session blocks = both.cpp.session();
    CHECK(spins(blocks) == 0);
    CHECK(spins(both.session_in_c().get()) == 0);
    rt::Session awake = both.cpp.session(spinning());
    CHECK(spins(awake) == 1);
    CHECK(spins(both.session_in_c(spinning()).get()) == 1);
}

void engines_that_do_not_open()
{
    const auto refused = [](const char* what, const std::string& path, const rt::EngineOptions& options, int32_t code,
                             const char* names) {
        const Outcome in_cpp = outcome([&] {
            const rt::Engine engine = rt::Engine::open(path, options);
            return rt::Status();
        });
        Outcome in_c;
        const CEngine engine = open_in_c(path, options, in_c);
        holds(in_cpp.code == code && contains(in_cpp.sentence, names), what);
        holds(in_c == in_cpp && engine == nullptr, std::string(what) + " in C as in C++");
    };
    rt::EngineOptions library;
    library.backend_library = "/nowhere/a library";
    refused("no library", bundle, library, QDBEV_RT_MISSING, "/nowhere/a library");
    refused("negative threads", bundle, threads_of(-1), QDBEV_RT_USAGE, "-1 threads");
    refused("no bundle", "nowhere.qdbev", {}, QDBEV_RT_BAD_INPUT, "nowhere.qdbev");

    // What the options name goes before what the environment names.
    if (const char* named = std::getenv("QDBEV_ONNXRUNTIME_LIBRARY")) {
        rt::EngineOptions good;
        good.backend_library = named;
        setenv("QDBEV_ONNXRUNTIME_LIBRARY", "/elsewhere/a library", 1);
        refused("what the environment names", bundle, {}, QDBEV_RT_MISSING, "/elsewhere/a library");
        const Both both(bundle, good);
        setenv("QDBEV_ONNXRUNTIME_LIBRARY", good.backend_library.c_str(), 1);
    }
}

void the_contract(const Both& both)
{
    qdbev_rt_contract told;
    qdbev_rt_init_contract(&told, sizeof told);
    CHECK(c_outcome([&](char* error, std::size_t size) { return qdbev_rt_describe(both.c.get(), &told, error, size); })
        == Outcome{});
    const rt::Contract& known = both.cpp.contract();
    CHECK(told.size == sizeof told);
    CHECK(told.variant == known.variant && !known.variant.empty());
    CHECK(told.backend == both.cpp.backend() && !both.cpp.backend().empty());
    CHECK(told.precision == both.cpp.precision() && !both.cpp.precision().empty());
    for (std::size_t i = 0; i < rt::kCameras; ++i) {
        CHECK(told.cameras[i] == known.cameras[i] && !known.cameras[i].empty());
    }
    for (std::size_t i = 0; i < rt::kClasses; ++i) {
        CHECK(told.classes[i] == known.classes[i] && !known.classes[i].empty());
    }
    CHECK(told.source_height == known.preprocess.source.height && told.source_height > 0);
    CHECK(told.source_width == known.preprocess.source.width && told.source_width > told.source_height);
    CHECK(told.queries == known.queries && told.queries > 0);
    CHECK(told.max_boxes == known.max_boxes && told.max_boxes > 0 && told.max_boxes != told.queries);
    CHECK(told.image_bytes == known.inputs[0].bytes() && told.image_bytes > 0);
    CHECK(told.state_bytes == known.outputs[0].bytes() && told.state_bytes > 0);
    CHECK(std::strcmp(qdbev_rt_version(), QDBEV_RUNTIME_VERSION) == 0);
}

void projections(const Both& both)
{
    std::vector<double> native(rt::kLidar2Img);
    for (std::size_t i = 0; i < native.size(); ++i) {
        native[i] = 1000 / (1.7 + static_cast<double>(i));
    }
    std::vector<float> in_cpp(native.size(), -1), in_c(native.size(), -2);
    rt::scale_lidar2img(native.data(), both.cpp.contract().preprocess, in_cpp.data());
    CHECK(qdbev_rt_scale_lidar2img(both.c.get(), native.data(), in_c.data(), nullptr, 0) == QDBEV_RT_DONE);
    CHECK(in_c == in_cpp);
}

void reset_begins_anew(const Both& both, const Frames& drive)
{
    rt::Session in_cpp = both.cpp.session();
    const CSession in_c = both.session_in_c();
    const auto same_step = [&](const rt::Frame& frame) {
        const Outcome stepped = step(in_cpp, frame, both.state_bytes());
        CHECK(step(in_c.get(), frame, both.state_bytes()) == stepped);
        return stepped;
    };
    same_step(drive[0]);
    const Outcome carried = same_step(drive[1]);
    CHECK(same_step(drive[1]).code == QDBEV_RT_BAD_INPUT);  // its time is over
    in_cpp.reset();
    qdbev_rt_reset(in_c.get());
    const Outcome anew = same_step(drive[1]);
    CHECK(anew.code == 0 && anew.reason == "first frame" && anew.state != carried.state);
}

void states(const Both& both, const Frames& drive)
{
    rt::Session in_cpp = both.cpp.session();
    const CSession in_c = both.session_in_c();
    std::string place(both.state_bytes(), '?');
    const auto refused = [&](void* out, std::size_t bytes) {
        const Outcome said = outcome([&] { return in_cpp.read_state(out, bytes); });
        CHECK(said.code == QDBEV_RT_USAGE);
        CHECK(said == c_outcome([&](char* error, std::size_t size) {
            return qdbev_rt_read_state(in_c.get(), out, bytes, error, size);
        }));
    };
    refused(place.data(), place.size());  // there is none yet
    CHECK(step(in_cpp, drive[0], both.state_bytes()) == step(in_c.get(), drive[0], both.state_bytes()));
    refused(place.data(), place.size() - 1);
    refused(nullptr, place.size());
    CHECK(place == std::string(both.state_bytes(), '?'));
    // Numbers, and not what lay there.
    CHECK(in_cpp.read_state(place.data(), place.size()).ok());
    CHECK(place.find_first_not_of('?') != std::string::npos);
    std::string other(both.state_bytes(), '!');
    CHECK(qdbev_rt_read_state(in_c.get(), other.data(), other.size(), nullptr, 0) == QDBEV_RT_DONE);
    CHECK(other == place);
}

void buffers_of_a_session(const Both& both, const Frames& drive)
{
    rt::Session in_cpp = both.cpp.session();
    const CSession in_c = both.session_in_c();
    void* const buffer = qdbev_rt_image_buffer(in_c.get(), QDBEV_RT_HOST);
    CHECK(buffer != nullptr && in_cpp.image_buffer() != nullptr && buffer != in_cpp.image_buffer());
    const bool has_device = in_cpp.image_buffer(rt::Memory::device) != nullptr;
    CHECK(has_device == (both.cpp.backend() == "tensorrt"));
    CHECK((qdbev_rt_image_buffer(in_c.get(), QDBEV_RT_DEVICE) != nullptr) == has_device);
    CHECK(qdbev_rt_image_buffer(in_c.get(), 7) == nullptr);
    CHECK(in_cpp.image_buffer(static_cast<rt::Memory>(7)) == nullptr);
    CHECK((in_cpp.cuda_stream() != nullptr) == has_device);
    CHECK((qdbev_rt_cuda_stream(in_c.get()) != nullptr) == has_device);

    // What is written there and passed is the frame's image.
    const void* image = std::get<rt::ImageTensor>(drive[0].images).data;
    if (buffer != nullptr) {
        std::memcpy(buffer, image, both.cpp.contract().inputs[0].bytes());
        rt::Frame frame = drive[0];
        frame.images = rt::ImageTensor{buffer, rt::Memory::host};
        CHECK(step(in_c.get(), frame, both.state_bytes()) == step(in_cpp, drive[0], both.state_bytes()));
    }
    CHECK(in_cpp.classes() != nullptr && in_cpp.coords() != nullptr);
}

// A structure with what must stay as it is behind it.
template <typename Structure>
struct Padded {
    static constexpr std::size_t kMore = 64;
    alignas(Structure) unsigned char bytes[sizeof(Structure) + kMore];

    Padded() { std::memset(bytes, 0xab, sizeof bytes); }
    Structure* get() noexcept { return reinterpret_cast<Structure*>(bytes); }
    bool are(std::size_t from, std::size_t to, unsigned char value) const
    {
        return std::all_of(bytes + from, bytes + to, [=](unsigned char byte) { return byte == value; });
    }
};

// `first` is the structure's size in the first release: it is taken for ever, and shorter there is none.
template <typename Structure, typename Init, typename Use>
void sizes(const char* what, std::size_t first, Init&& init, Use&& use)
{
    const std::string name = what;
    const auto used = [&](Structure* structure) {
        return c_outcome([&](char* error, std::size_t size) { return use(structure, error, size); });
    };
    init(nullptr, sizeof(Structure));
    for (const std::size_t size : {first - 8, sizeof(Structure), sizeof(Structure) + 16}) {
        Padded<Structure> given;
        init(given.get(), size);
        holds(given.get()->size == size, name + " is told its size");
        holds(given.are(size, sizeof given.bytes, 0xab), name + " is not written beyond its size");
        holds(given.are(std::min(size, sizeof(Structure)), size, 0), name + ": what a later header adds is zero");
    }
    for (const std::size_t size : {std::size_t{0}, std::size_t{8}, first - 1, sizeof(Structure) + 1, SIZE_MAX}) {
        Padded<Structure> given;
        init(given.get(), sizeof(Structure));
        given.get()->size = size;
        const Padded<Structure> before = given;
        const Outcome said = used(given.get());
        holds(said.code == QDBEV_RT_USAGE && contains(said.sentence, "another size"),
            name + " of size " + std::to_string(size) + " is refused");
        holds(std::memcmp(before.bytes, given.bytes, sizeof given.bytes) == 0, name + " stays as it was where refused");
    }
    Padded<Structure> given;
    init(given.get(), first);
    const Outcome taken = used(given.get());
    holds(!contains(taken.sentence, "another size"), name + " of its first size is taken");
    holds(given.are(first, sizeof given.bytes, 0xab), name + " of its first size is not written beyond it");
}

void structures(const Both& both, const Frames& drive)
{
    sizes<qdbev_rt_engine_options>("engine options", 40, qdbev_rt_init_engine_options,
        [](const qdbev_rt_engine_options* options, char* error, std::size_t size) {
            qdbev_rt_engine* engine = nullptr;
            const int32_t code = qdbev_rt_open(bundle.c_str(), options, &engine, error, size);
            qdbev_rt_close(engine);
            return code;
        });
    sizes<qdbev_rt_session_options>("session options", 32, qdbev_rt_init_session_options,
        [&](const qdbev_rt_session_options* options, char* error, std::size_t size) {
            qdbev_rt_session* session = nullptr;
            const int32_t code = qdbev_rt_new_session(both.c.get(), options, &session, error, size);
            qdbev_rt_end_session(session);
            return code;
        });
    sizes<qdbev_rt_contract>("a contract", 192, qdbev_rt_init_contract,
        [&](qdbev_rt_contract* contract, char* error, std::size_t size) {
            return qdbev_rt_describe(both.c.get(), contract, error, size);
        });
    const CSession session = both.session_in_c();
    sizes<qdbev_rt_frame>("a frame", 232, qdbev_rt_init_frame,
        [&](const qdbev_rt_frame* frame, char* error, std::size_t size) {
            qdbev_rt_output output;
            qdbev_rt_init_output(&output, sizeof output);
            return qdbev_rt_step(session.get(), frame, &output, error, size);
        });
    std::string scene;
    const qdbev_rt_frame frame = as_c(drive[0], scene);
    sizes<qdbev_rt_output>("an output", 96, qdbev_rt_init_output,
        [&](qdbev_rt_output* output, char* error, std::size_t size) {
            return qdbev_rt_step(session.get(), &frame, output, error, size);
        });
}

void defaults()
{
    qdbev_rt_engine_options engine;
    std::memset(&engine, 0xab, sizeof engine);
    qdbev_rt_init_engine_options(&engine, sizeof engine);
    CHECK(engine.backend_library == nullptr && engine.threads == 0);
    CHECK(engine.logger == nullptr && engine.logger_user == nullptr);
    qdbev_rt_session_options session;
    std::memset(&session, 0xab, sizeof session);
    qdbev_rt_init_session_options(&session, sizeof session);
    CHECK(session.cuda_graph == 0 && session.wait == QDBEV_RT_BLOCK && session.timed == 0);
    CHECK(session.min_score == 0 && session.max_gap_s == 0);
    qdbev_rt_frame frame;
    std::memset(&frame, 0xab, sizeof frame);
    qdbev_rt_init_frame(&frame, sizeof frame);
    CHECK(frame.rotation[0] == 1 && frame.rotation[1] == 0 && frame.rotation[2] == 0 && frame.rotation[3] == 0);
    CHECK(frame.cameras[5] == nullptr && frame.image == nullptr);
    CHECK(frame.lidar2img == nullptr && frame.scene == nullptr);
    CHECK(frame.row_bytes == 0 && frame.bgr == 0 && frame.image_memory == QDBEV_RT_HOST && frame.timestamp_us == 0);
    CHECK(frame.translation[0] == 0 && frame.velocity[2] == 0);
    qdbev_rt_output output;
    std::memset(&output, 0xab, sizeof output);
    qdbev_rt_init_output(&output, sizeof output);
    CHECK(output.boxes == nullptr && output.count == 0 && output.total_ms == 0);
}

void arguments_that_are_null(const Both& both, const Frames& drive)
{
    const CSession session = both.session_in_c();
    qdbev_rt_session* const running = session.get();
    std::string scene;
    const qdbev_rt_frame frame = as_c(drive[0], scene);
    qdbev_rt_output output;
    qdbev_rt_init_output(&output, sizeof output);
    qdbev_rt_contract contract;
    qdbev_rt_init_contract(&contract, sizeof contract);
    double native[rt::kLidar2Img] = {};
    float scaled[rt::kLidar2Img] = {};
    // What stood where a handle goes is not kept.
    auto* const stale_engine = reinterpret_cast<qdbev_rt_engine*>(native);
    auto* const stale_session = reinterpret_cast<qdbev_rt_session*>(native);
    qdbev_rt_engine* engine = stale_engine;
    qdbev_rt_session* made = stale_session;
    const auto refused = [](auto&& function) {
        const Outcome said = c_outcome(function);
        CHECK(said.code == QDBEV_RT_USAGE && contains(said.sentence, "; needed: "));
        CHECK(function(nullptr, 0) == QDBEV_RT_USAGE);
    };
    refused([&](char* error, std::size_t size) { return qdbev_rt_open(nullptr, nullptr, &engine, error, size); });
    CHECK(engine == nullptr);
    refused([&](char* error, std::size_t size) {
        return qdbev_rt_open(bundle.c_str(), nullptr, nullptr, error, size);
    });
    CHECK(qdbev_rt_open(nullptr, nullptr, &engine, nullptr, 100) == QDBEV_RT_USAGE);
    refused([&](char* error, std::size_t size) { return qdbev_rt_describe(nullptr, &contract, error, size); });
    refused([&](char* error, std::size_t size) { return qdbev_rt_describe(both.c.get(), nullptr, error, size); });
    refused([&](char* error, std::size_t size) { return qdbev_rt_new_session(nullptr, nullptr, &made, error, size); });
    CHECK(made == nullptr);
    refused([&](char* error, std::size_t size) {
        return qdbev_rt_new_session(both.c.get(), nullptr, nullptr, error, size);
    });
    refused([&](char* error, std::size_t size) { return qdbev_rt_step(nullptr, &frame, &output, error, size); });
    refused([&](char* error, std::size_t size) { return qdbev_rt_step(running, nullptr, &output, error, size); });
    refused([&](char* error, std::size_t size) { return qdbev_rt_step(running, &frame, nullptr, error, size); });
    refused([&](char* error, std::size_t size) {
        return qdbev_rt_scale_lidar2img(nullptr, native, scaled, error, size);
    });
    refused([&](char* error, std::size_t size) {
        return qdbev_rt_scale_lidar2img(both.c.get(), nullptr, scaled, error, size);
    });
    refused([&](char* error, std::size_t size) {
        return qdbev_rt_scale_lidar2img(both.c.get(), native, nullptr, error, size);
    });
    refused([&](char* error, std::size_t size) { return qdbev_rt_read_state(nullptr, scaled, 4, error, size); });
    qdbev_rt_close(nullptr);
    qdbev_rt_end_session(nullptr);
    qdbev_rt_reset(nullptr);
    CHECK(qdbev_rt_image_buffer(nullptr, QDBEV_RT_HOST) == nullptr && qdbev_rt_cuda_stream(nullptr) == nullptr);

    // A handle is null, too, where opening failed for another reason.
    engine = stale_engine;
    CHECK(qdbev_rt_open("nowhere.qdbev", nullptr, &engine, nullptr, 0) == QDBEV_RT_BAD_INPUT && engine == nullptr);
    // A scene without a name is one, and is like the empty name.
    qdbev_rt_frame nameless = frame;
    nameless.scene = nullptr;
    CHECK(qdbev_rt_step(running, &nameless, &output, nullptr, 0) == QDBEV_RT_DONE);
    nameless.scene = "";
    nameless.timestamp_us += 500'000;
    CHECK(qdbev_rt_step(running, &nameless, &output, nullptr, 0) == QDBEV_RT_DONE && output.reset == 0);
}

void errors_fit_where_they_go()
{
    qdbev_rt_engine* engine = nullptr;
    const Outcome whole = c_outcome([&](char* error, std::size_t size) {
        return qdbev_rt_open("nowhere.qdbev", nullptr, &engine, error, size);
    });
    CHECK(whole.sentence.size() > 40 && contains(whole.sentence, "nowhere.qdbev"));
    const std::size_t length = whole.sentence.size();
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{20}, length, length + 1, length + 2}) {
        std::vector<char> error(length + 8, '#');
        CHECK(qdbev_rt_open("nowhere.qdbev", nullptr, &engine, error.data(), size) == QDBEV_RT_BAD_INPUT);
        const std::size_t kept = size == 0 ? 0 : std::min(size - 1, length);
        CHECK(std::string(error.data(), kept) == whole.sentence.substr(0, kept));
        CHECK(size == 0 || error[kept] == '\0');
        for (std::size_t i = size == 0 ? 0 : kept + 1; i < error.size(); ++i) {
            CHECK(error[i] == '#');
        }
    }
}

// No exception crosses the interface, whatever it is.
void exceptions_end_here(const Both& both)
{
    const std::pair<Raise, const char*> raised[] = {{Raise::bad_alloc, "memory ran out"},
        {Raise::exception, "beyond all bounds"}, {Raise::unknown, "an unknown exception"}};
    for (const auto& [raise, sentence] : raised) {
        qdbev_rt_engine* engine = nullptr;
        qdbev_rt_session* session = nullptr;
        Sentence said;
        check::raise_in_new(raise);
        CHECK(qdbev_rt_open(bundle.c_str(), nullptr, &engine, said.data(), said.size()) == QDBEV_RT_FAILED);
        CHECK(said.text() == sentence && engine == nullptr && !check::raises_in_new());
        check::raise_in_new(raise);
        CHECK(qdbev_rt_new_session(both.c.get(), nullptr, &session, said.data(), said.size()) == QDBEV_RT_FAILED);
        CHECK(said.text() == sentence && session == nullptr && !check::raises_in_new());
    }
}

// Where there is no other engine, which would keep alive what ONNX Runtime has once in a process.
void sessions_outlive_their_engines(const Frames& drive)
{
    Outcomes expected;
    std::size_t state_bytes = 0;
    const auto drives = [&](auto&& session) {
        for (std::size_t i = 0; i < drive.size(); ++i) {
            CHECK(step(session, drive[i], state_bytes) == expected[i]);
        }
    };
    for (const rt::SessionOptions& options : {rt::SessionOptions{}, spinning()}) {
        std::optional<rt::Session> in_cpp;
        CSession in_c;
        {
            const Both both;
            state_bytes = both.state_bytes();
            expected = both.run("before their end", drive, options);
            in_cpp.emplace(both.cpp.session(options));
        }
        drives(*in_cpp);
        in_cpp.reset();
        in_c = Both().session_in_c(options);
        drives(in_c.get());
    }
}

// The model that spins is loaded by who asks first, and two may be that.
void sessions_made_at_once(const Both& both, const Frames& drive)
{
    const Outcomes expected = both.run_in_cpp(drive);
    for (int round = 0; round < 3; ++round) {
        for (const bool in_c : {false, true}) {
            const Both fresh(bundle, threads_of(1));
            std::atomic<int> waiting{0};
            bool same[2] = {};
            const auto drives = [&](bool& as_expected) {
                ++waiting;
                while (waiting < 2) {
                    std::this_thread::yield();
                }
                const rt::SessionOptions spin = spinning();
                as_expected = (in_c ? fresh.run_in_c(drive, spin) : fresh.run_in_cpp(drive, spin)) == expected;
            };
            std::thread one([&] { drives(same[0]); });
            std::thread other([&] { drives(same[1]); });
            one.join();
            other.join();
            CHECK(same[0] && same[1]);
        }
    }
}

struct Log {
    int calls = 0;
    int32_t severity = -1;
    std::string last;
};

void write_log(int32_t severity, const char* sentence, void* log)
{
    Log& to = *static_cast<Log*>(log);
    ++to.calls;
    to.severity = severity;
    to.last = sentence;
}

// A run that fails is told to the logger, as long as there is a session; it leaves session and output as they were.
void failures_and_loggers(const std::string& fragile, const Frames& drive)
{
    Log log;
    qdbev_rt_engine_options options;
    qdbev_rt_init_engine_options(&options, sizeof options);
    options.logger = write_log;
    options.logger_user = &log;
    qdbev_rt_engine* opened = nullptr;
    CHECK(qdbev_rt_open(fragile.c_str(), &options, &opened, nullptr, 0) == QDBEV_RT_DONE);
    CEngine engine(opened);
    Outcome made;
    const CSession in_c = session_in_c(engine.get(), {}, made);
    Log log_in_cpp;
    rt::EngineOptions options_in_cpp;
    options_in_cpp.logger = [](rt::Severity severity, const char* sentence, void* to) {
        write_log(static_cast<int32_t>(severity), sentence, to);
    };
    options_in_cpp.logger_user = &log_in_cpp;
    const rt::Engine engine_in_cpp = rt::Engine::open(fragile, options_in_cpp);
    rt::Session in_cpp = engine_in_cpp.session();
    const std::size_t state_bytes = engine_in_cpp.contract().outputs[0].bytes();

    const Outcome before = step(in_c.get(), drive[0], state_bytes);
    CHECK(before.code == 0 && before == step(in_cpp, drive[0], state_bytes) && log.calls == 0);
    rt::Frame fast = drive[1];
    fast.ego.velocity[0] = 1000;
    std::string scene;
    const qdbev_rt_frame given = as_c(fast, scene);
    for (int attempt = 1; attempt < 4; ++attempt) {
        Padded<qdbev_rt_output> output;
        output.get()->size = sizeof(qdbev_rt_output);
        const Padded<qdbev_rt_output> as_it_was = output;
        const Outcome failed = c_outcome([&](char* error, std::size_t size) {
            return qdbev_rt_step(in_c.get(), &given, output.get(), error, size);
        });
        CHECK(failed.code == QDBEV_RT_FAILED && contains(failed.sentence, "broke off"));
        CHECK(failed == step(in_cpp, fast, state_bytes));
        CHECK(std::memcmp(output.bytes, as_it_was.bytes, sizeof output.bytes) == 0);
        CHECK(log.calls == attempt && log_in_cpp.calls == attempt);
        CHECK(log.severity == QDBEV_RT_ERROR && contains(log.last, "speeds") && log.last == log_in_cpp.last);
        engine.reset();  // the session keeps the logger
    }
    CHECK(step(in_c.get(), drive[1], state_bytes) == step(in_cpp, drive[1], state_bytes));
    CHECK(log.calls == 3);
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc != 4 && argc != 5) {
        std::fprintf(stderr, "c_against_cpp BUNDLE SAMPLES NATIVE_SAMPLES [FRAGILE]\n");
        return 2;
    }
    bundle = argv[1];
    const rt::Contract contract = rt::Engine::open(bundle).contract();
    const auto samples = qdbev::apps::read_samples(argv[2], contract);
    const auto native_samples = qdbev::apps::read_samples(argv[3], contract);
    const Frames drive = drive_of(samples, false, 2), native_drive = drive_of(native_samples, true, 2);
    sessions_outlive_their_engines(drive);

    const Both both;
    the_drive(both, drive);
    every_field_of_a_frame(both, drive);
    every_field_of_camera_frames(both, native_drive);
    every_option_of_a_session(both, drive);
    engines_that_do_not_open();
    the_contract(both);
    projections(both);
    reset_begins_anew(both, drive);
    states(both, drive);
    buffers_of_a_session(both, drive);
    structures(both, drive);
    defaults();
    arguments_that_are_null(both, drive);
    errors_fit_where_they_go();
    exceptions_end_here(both);
    if (both.cpp.backend() == "onnxruntime") {
        times(both, native_drive);
        threads_and_waiting();
        spinning_spins(drive);
        sessions_made_at_once(both, drive);
    }
    if (argc == 5) {
        failures_and_loggers(argv[4], drive);
    }
    return check::report();
}
