// A sequence on a stream that only remembers what it was given: state, staging, refusals, and that nothing allocates.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "check.h"
#include "sequence.h"

namespace {

bool g_counting = false;
int g_allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size)
{
    g_allocations += g_counting ? 1 : 0;
    if (void* block = std::malloc(size == 0 ? 1 : size)) {
        return block;
    }
    throw std::bad_alloc();
}

[[gnu::noinline]] void operator delete(void* block) noexcept
{
    std::free(block);
}

[[gnu::noinline]] void operator delete(void* block, std::size_t) noexcept
{
    std::free(block);
}

namespace {

using namespace qdbev::runtime;

constexpr int32_t kQueries = 30;

Contract small_contract(bool in_graph)
{
    Contract contract;
    contract.variant = "test";
    contract.preprocess.in_graph = in_graph;
    contract.preprocess.mean = {1, 2, 3};
    contract.preprocess.std = {2, 2, 2};
    contract.preprocess.source = {8, 16};
    contract.preprocess.resized = {4, 8};
    contract.preprocess.padded = {6, 8};
    const TensorSpec image = in_graph ? TensorSpec{"image", DType::uint8, {1, 6, 8, 16, 3}}
                                      : TensorSpec{"image", DType::float32, {1, 6, 3, 6, 8}};
    contract.inputs = {image, {"prev_bev", DType::float32, {4, 1, 2}}, {"use_prev_bev", DType::float32, {1}},
        {"can_bus", DType::float32, {18}}, {"lidar2img", DType::float32, {1, 6, 4, 4}}};
    contract.outputs = {{"bev_embed", DType::float32, {4, 1, 2}},
        {"outputs_classes", DType::float32, {1, 1, kQueries, 10}},
        {"outputs_coords", DType::float32, {1, 1, kQueries, 10}}};
    contract.post_center_range = {-60, -60, -10, 60, 60, 10};
    contract.queries = kQueries;
    contract.max_boxes = 20;
    contract.max_gap_s = 2;
    return contract;
}

// Adds one to its state at every frame whose past is kept, and says how often.
class CountingStream final : public Stream {
public:
    explicit CountingStream(const Contract& contract)
        : image_(contract.inputs[0].bytes()), classes_(kQueries * 10, -9.0F), coords_(kQueries * 10)
    {
        inputs_ = {image_.data(), &use_prev_, can_bus_, lidar2img_};
    }

    const Inputs& inputs() noexcept override { return inputs_; }
    void* device_image() noexcept override { return has_device ? device_ : nullptr; }

    Status run(const void* device_image, Times& times) noexcept override
    {
        last_device_image = device_image;
        if (fail_next) {
            fail_next = false;
            return {Code::failed, "the device gave up", "one that does not", "try again"};
        }
        state = use_prev_ == 0 ? 1 : state + 1;
        classes_[0] = nan_next == 1 ? std::nanf("") : static_cast<float>(state);
        coords_[7] = nan_next == 2 ? std::nanf("") : 0.0F;
        nan_next = 0;
        times.compute = 0.25;
        return {};
    }

    void undo() noexcept override
    {
        --state;
        ++undone;
    }

    const float* classes() const noexcept override { return classes_.data(); }
    const float* coords() const noexcept override { return coords_.data(); }

    Status read_state(void* out) noexcept override
    {
        const float value = static_cast<float>(state);
        std::memcpy(out, &value, sizeof value);
        return {};
    }

    bool has_device = false, fail_next = false;
    const void* last_device_image = nullptr;
    int state = 0;
    int nan_next = 0;  // 1: in a logit, 2: in a box code
    int undone = 0;
    float can_bus_[18] = {};
    float lidar2img_[96] = {};
    std::vector<uint8_t> image_;

private:
    char device_[4] = {};
    float use_prev_ = -1;
    std::vector<float> classes_, coords_;
    Inputs inputs_;
};

struct Fixture {
    explicit Fixture(bool in_graph = false, const SessionOptions& options = {})
        : contract(small_contract(in_graph)),
          pixels(8 * 16 * 3, 7),
          lidar2img(kLidar2Img, 0.5F),
          stream(new CountingStream(contract)),
          sequence(contract, std::unique_ptr<Stream>(stream), options)
    {
    }

    Frame frame(double seconds, std::string_view scene = "a") const
    {
        Frame made;
        CameraImages cameras;
        cameras.data.fill(pixels.data());
        made.images = cameras;
        made.lidar2img = lidar2img.data();
        made.ego.timestamp_us = static_cast<int64_t>(seconds * 1e6);
        made.ego.translation = {seconds * 3, 0, 0};
        made.scene = scene;
        return made;
    }

    Contract contract;
    std::vector<uint8_t> pixels;
    std::vector<float> lidar2img;
    CountingStream* stream;  // the sequence's
    Sequence sequence;
    StepOutput output;
};

void carries_the_state_and_drops_it()
{
    Fixture f;
    CHECK(f.sequence.step(f.frame(1), f.output).ok());
    CHECK(f.output.reset && std::string(f.output.reset_reason) == "first frame");
    CHECK(f.stream->state == 1 && f.stream->can_bus_[0] == 0.0F);
    CHECK(f.sequence.step(f.frame(1.5), f.output).ok());
    CHECK(!f.output.reset && f.output.reset_reason[0] == '\0' && f.stream->state == 2);
    CHECK(f.stream->can_bus_[0] == 1.5F);
    CHECK(f.sequence.step(f.frame(4), f.output).ok());
    CHECK(f.output.reset && check::contains(f.output.reset_reason, "gap of 2.50 s") && f.stream->state == 1);
    CHECK(f.sequence.step(f.frame(4.5, "b"), f.output).ok());
    CHECK(f.output.reset && std::string(f.output.reset_reason) == "new scene" && f.stream->state == 1);
    f.sequence.reset();
    CHECK(f.sequence.step(f.frame(4.6, "b"), f.output).ok());
    CHECK(f.output.reset && std::string(f.output.reset_reason) == "first frame");
    float state = 0;
    CHECK(!f.sequence.read_state(&state, sizeof state).ok());  // of another size
    std::vector<float> whole(8);
    CHECK(f.sequence.read_state(whole.data(), 32).ok() && whole[0] == 1.0F);
}

void what_fails_leaves_the_past()
{
    Fixture f;
    std::vector<float> whole(8);
    CHECK(check::contains(f.sequence.read_state(whole.data(), 32).message(), "no state yet"));
    CHECK(f.sequence.step(f.frame(1), f.output).ok());
    f.stream->fail_next = true;
    const Status failed = f.sequence.step(f.frame(1.5), f.output);
    CHECK(failed.code() == Code::failed && check::contains(failed.message(), "gave up"));
    CHECK(f.sequence.step(f.frame(1.5), f.output).ok());  // the same moment again: it was not kept
    CHECK(!f.output.reset && f.stream->state == 2);
    CHECK(f.sequence.step(f.frame(1.2), f.output).code() == Code::bad_input);  // from the past
    Frame frame = f.frame(2);
    frame.lidar2img = nullptr;
    CHECK(check::contains(f.sequence.step(frame, f.output).message(), "without lidar2img"));
    f.lidar2img[95] = std::numeric_limits<float>::infinity();
    CHECK(check::contains(f.sequence.step(f.frame(2), f.output).message(), "not finite"));
    f.lidar2img[95] = 0;
    frame = f.frame(2);
    frame.ego.velocity[2] = std::nan("");
    CHECK(f.sequence.step(frame, f.output).code() == Code::bad_input);
    std::get<CameraImages>(frame.images).data[3] = nullptr;
    frame.ego.velocity[2] = 0;
    CHECK(f.sequence.step(frame, f.output).code() == Code::bad_input);
    frame.images = ImageTensor{};
    CHECK(check::contains(f.sequence.step(frame, f.output).message(), "without images"));
    CHECK(f.sequence.step(f.frame(2), f.output).ok() && f.stream->state == 3);
}

void what_is_no_number_does_not_travel()
{
    Fixture f;
    CHECK(f.sequence.step(f.frame(1), f.output).ok());
    for (int kind : {1, 2}) {
        f.stream->nan_next = kind;
        const Status refused = f.sequence.step(f.frame(1 + 0.6 * kind), f.output);
        CHECK(refused.code() == Code::failed && check::contains(refused.message(), "no numbers"));
        CHECK(f.stream->undone == kind);
        CHECK(f.sequence.step(f.frame(1 + 0.6 * kind), f.output).ok());  // one alone: the past before it is kept
        CHECK(!f.output.reset && f.stream->state == 1 + kind);
    }
    for (int i = 0; i < 2; ++i) {  // two in a row: it is in the state
        f.stream->nan_next = 1;
        CHECK(!f.sequence.step(f.frame(2.3), f.output).ok());
    }
    CHECK(f.sequence.step(f.frame(2.4), f.output).ok());
    CHECK(f.output.reset && std::string(f.output.reset_reason) == "first frame" && f.stream->state == 1);

    Frame frame = f.frame(2.5);
    frame.ego.acceleration[0] = 1e300;
    const Status refused = f.sequence.step(frame, f.output);
    CHECK(refused.code() == Code::bad_input && check::contains(refused.message(), "beyond single precision"));
}

void the_last_output_is_not_rewritten()
{
    Fixture f;
    CHECK(f.sequence.step(f.frame(1), f.output).ok() && f.sequence.step(f.frame(6), f.output).ok());
    const char* const reason = f.output.reset_reason;
    CHECK(std::string(reason) == "gap of 5.00 s");
    Frame refused = f.frame(60);
    refused.lidar2img = nullptr;
    StepOutput other;
    CHECK(!f.sequence.step(refused, other).ok());
    CHECK(std::string(reason) == "gap of 5.00 s");
}

void images_reach_the_network()
{
    Fixture f;
    CHECK(f.sequence.step(f.frame(1), f.output).ok());
    const auto* staged = reinterpret_cast<const float*>(f.stream->image_.data());
    CHECK(staged[0] == 3.0F && staged[48] == 2.5F && staged[4 * 8] == 0.0F);  // (7-1)/2, (7-2)/2, padding

    Fixture native(true);
    native.pixels[0] = 1;
    native.pixels[2] = 3;
    Frame frame = native.frame(1);
    std::get<CameraImages>(frame.images).bgr = true;
    CHECK(native.sequence.step(frame, native.output).ok());
    CHECK(native.stream->image_[0] == 3 && native.stream->image_[2] == 1);

    std::vector<float> prepared(6 * 3 * 6 * 8, 0.25F);
    frame = f.frame(1.5);
    frame.images = ImageTensor{prepared.data(), Memory::host};
    CHECK(f.sequence.step(frame, f.output).ok() && staged[17] == 0.25F);
    auto* own = static_cast<float*>(f.sequence.image_buffer(Memory::host));
    CHECK(own == staged);
    own[17] = 4;
    frame = f.frame(1.6);
    frame.images = ImageTensor{own, Memory::host};
    CHECK(f.sequence.step(frame, f.output).ok() && staged[17] == 4.0F && f.stream->last_device_image == nullptr);

    frame = f.frame(1.7);
    frame.images = ImageTensor{prepared.data(), Memory::device};
    CHECK(f.sequence.image_buffer(Memory::device) == nullptr);
    CHECK(check::contains(f.sequence.step(frame, f.output).message(), "device memory"));
    f.stream->has_device = true;
    CHECK(f.sequence.step(frame, f.output).ok() && f.stream->last_device_image == prepared.data());
    CHECK(f.sequence.image_buffer(Memory::device) != nullptr);
}

void boxes_and_times_are_told()
{
    SessionOptions options;
    options.min_score = 0.5F;
    Fixture f(false, options);
    CHECK(f.sequence.step(f.frame(1), f.output).ok());
    CHECK(f.output.count == 1 && f.output.boxes[0].label == 0);
    CHECK(std::abs(f.output.boxes[0].score - 1.0F / (1.0F + std::exp(-1.0F))) < 1e-6F);
    const Times& times = f.output.times;
    CHECK(times.compute == 0.25 && times.upload < 0 && times.download < 0);
    CHECK(times.prepare >= 0 && times.decode >= 0 && times.total >= times.prepare + times.decode);
    Fixture all;
    CHECK(all.sequence.step(all.frame(1), all.output).ok() && all.output.count == 20);
}

void options_are_checked()
{
    const auto refusal = [](auto change) {
        SessionOptions options;
        change(options);
        return check::refusal([&] { require_usable(options); });
    };
    CHECK(refusal([](SessionOptions&) {}).empty());
    CHECK(refusal([](SessionOptions& options) { options.min_score = 1; }).empty());
    for (const double gap : {-1.0, std::nan("")}) {
        CHECK(check::contains(refusal([gap](SessionOptions& options) { options.max_gap_s = gap; }), "max_gap_s"));
    }
    for (const float score : {-0.1F, 1.1F, std::nanf("")}) {
        CHECK(check::contains(refusal([score](SessionOptions& options) { options.min_score = score; }), "min_score"));
    }
    const auto unknown = [](SessionOptions& options) { options.wait = static_cast<Wait>(9); };
    CHECK(check::contains(refusal(unknown), "Wait::block"));

    SessionOptions options;
    options.max_gap_s = 10;
    Fixture patient(false, options);
    CHECK(patient.sequence.step(patient.frame(1), patient.output).ok());
    CHECK(patient.sequence.step(patient.frame(9), patient.output).ok() && !patient.output.reset);
    Frame frame = patient.frame(9.5);
    frame.images = ImageTensor{&options, static_cast<Memory>(7)};
    CHECK(check::contains(patient.sequence.step(frame, patient.output).message(), "unknown memory"));
    CHECK(patient.sequence.image_buffer(static_cast<Memory>(7)) == nullptr);
}

void no_step_allocates()
{
    for (const bool in_graph : {false, true}) {
        Fixture f(in_graph);
        g_allocations = 0;
        g_counting = true;
        int refused = 0;
        for (int i = 1; i <= 20; ++i) {
            const double seconds = i == 15 ? 0 : i * (i > 10 ? 0.5 : 3);
            // Long names and failures are paid for beforehand, too.
            const char* const long_name = "a scene with a name that no short string optimisation holds";
            const Frame frame = f.frame(seconds, i % 7 < 3 ? "a" : long_name);
            f.stream->fail_next = i == 5;
            refused += f.sequence.step(frame, f.output).ok() ? 0 : 1;
        }
        g_counting = false;
        CHECK(refused >= 2);
        CHECK(g_allocations == 0);
    }
}

}  // namespace

int main()
{
    carries_the_state_and_drops_it();
    what_fails_leaves_the_past();
    what_is_no_number_does_not_travel();
    the_last_output_is_not_rewritten();
    images_reach_the_network();
    boxes_and_times_are_told();
    options_are_checked();
    no_step_allocates();
    return check::report();
}
