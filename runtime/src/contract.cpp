// The contract of a bundle: what this runtime implements, and contract.json held against it.
#include "qdbev_runtime/contract.h"

#include <cmath>
#include <limits>
#include <utility>

#include "contract_document.h"
#include "qdbev_runtime/status.h"
#include "qdbev_runtime/version.h"

namespace qdbev::runtime {
namespace {

using json::Field;
using json::Value;

// What boxes.py, streaming.py and preprocess.py do, and this runtime after them. A document that says anything else is
// of another meaning, whatever its version.
constexpr const char* kCameraNames =
    R"(["CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"])";
constexpr const char* kClassNames = R"(["car", "truck", "construction_vehicle", "bus", "trailer", "barrier",
    "motorcycle", "bicycle", "pedestrian", "traffic_cone"])";
constexpr const char* kBoxCodeParts = R"(["cx", "cy", "log_w", "log_l", "cz", "log_h", "sin", "cos", "vx", "vy"])";
constexpr const char* kCanBusParts = R"({"size": 18, "translation_delta_m": [0, 3], "rotation_wxyz": [3, 7],
    "acceleration": [7, 10], "rotation_rate": [10, 13], "velocity": [13, 16], "yaw_rad": 16, "yaw_delta_deg": 17})";
constexpr const char* kScore = "sigmoid of the class logit";
constexpr const char* kCandidates = "every query with every class, sorted by falling score, ties by rising index";
constexpr const char* kYaw = "network rotation r = atan2(sin, cos); nuScenes yaw = -r - pi/2";
constexpr const char* kBoxSize = "exp of log_w, log_l, log_h";

// Documents are read from files: what no machine could hold is not tried.
constexpr int64_t kMaxSide = 20'000;
constexpr int64_t kMaxSize = 100'000;
constexpr int64_t kMaxCells = 1'000'000;
constexpr int64_t kMaxEmbedDim = 8192;
constexpr int64_t kMaxLayers = 64;

Value known(const char* text)
{
    return json::parse(text, "a part of the contract", "report this as a bug of the runtime");
}

Value text_value(const char* text)
{
    return Value(std::string(text));
}

void require_members(const Field& object, std::size_t count)
{
    if (object.members().size() != count) {
        object.refuse("its " + std::to_string(count) + " fields and no others");
    }
}

// What of the specification decides shapes and boxes.
struct Sizes {
    int64_t bev_cells, embed_dim, queries, decoder_layers;
};

int32_t small(const Field& field, int64_t low, int64_t high)
{
    return static_cast<int32_t>(field.integer(low, high));
}

Size size_of_image(const Field& field, const Size& high)
{
    field.require_length(2);
    return {small(field[0], 1, high.height), small(field[1], 1, high.width)};
}

std::array<float, 3> channels(const Field& field, bool positive)
{
    field.require_length(3);
    std::array<float, 3> values{};
    for (std::size_t i = 0; i < values.size(); ++i) {
        const double found = field[i].number();
        const bool held = std::abs(found) <= std::numeric_limits<float>::max();
        values[i] = held ? static_cast<float>(found) : 0.0F;
        if (!held || (positive && !(values[i] > 0))) {
            field[i].refuse(positive ? "a positive number of single precision" : "a number of single precision");
        }
    }
    return values;
}

Preprocess preprocess_of(const Field& document, bool in_graph)
{
    const Field part = document["preprocess"];
    const Field spec = document["spec"]["preprocess"];
    for (const char* name : {"channel_order", "mean", "std", "source_hw", "resized_hw", "padded_hw"}) {
        part[name].require(spec[name].value());
    }
    require_members(spec, 6);
    part["in_graph"].require(Value(in_graph));
    require_members(part, 8);

    Preprocess read;
    read.in_graph = in_graph;
    const std::string& order = part["channel_order"].text();
    if (order != "rgb" && order != "bgr") {
        part["channel_order"].refuse("rgb or bgr");
    }
    read.bgr = order == "bgr";
    read.mean = channels(part["mean"], false);
    read.std = channels(part["std"], true);
    constexpr Size kLargest = {kMaxSide, kMaxSide};
    read.source = size_of_image(part["source_hw"], kLargest);
    read.padded = size_of_image(part["padded_hw"], kLargest);
    read.resized = size_of_image(part["resized_hw"], read.padded);
    const Value scale(Value::List{Value(static_cast<double>(read.resized.width) / read.source.width),
        Value(static_cast<double>(read.resized.height) / read.source.height)});
    part["scale_xy"].require(scale);
    return read;
}

Sizes sizes_of(const Field& spec)
{
    const Field bev_hw = spec["bev_hw"];
    bev_hw.require_length(2);
    const int64_t height = bev_hw[0].integer(1, kMaxSize);
    const int64_t width = bev_hw[1].integer(1, kMaxSize);
    if (height * width > kMaxCells) {
        bev_hw[0].refuse("a BEV of at most a million cells, and this one has " + std::to_string(height * width));
    }
    const int64_t embed_dim = spec["embed_dim"].integer(2, kMaxEmbedDim);
    if (embed_dim % 2 != 0) {
        spec["embed_dim"].refuse("an even number");
    }
    return {
        height * width, embed_dim, spec["queries"].integer(1, kMaxSize), spec["decoder_layers"].integer(1, kMaxLayers)};
}

// A tensor of the contract, as it must be listed.
struct Listed {
    TensorSpec tensor;
    const char* meaning;
};

std::vector<Listed> inputs_of(const Sizes& sizes, const Preprocess& preprocess, DType state, bool flag_has_axis)
{
    const auto cameras = static_cast<int64_t>(kCameras);
    Listed image = {{"image", DType::float32, {1, cameras, 3, preprocess.padded.height, preprocess.padded.width}},
        "normalised, padded camera frames, in CAMERAS order"};
    if (preprocess.in_graph) {
        image = {{"image", DType::uint8, {1, cameras, preprocess.source.height, preprocess.source.width, 3}},
            "native camera frames, RGB, in CAMERAS order"};
    }
    const std::vector<int64_t> flag = flag_has_axis ? std::vector<int64_t>{1} : std::vector<int64_t>{};
    return {std::move(image),
        {{"prev_bev", state, {sizes.bev_cells, 1, sizes.embed_dim}}, "bev_embed of the last frame"},
        {{"use_prev_bev", DType::float32, flag}, "0 on the first frame of a scene, else 1"},
        {{"can_bus", DType::float32, {static_cast<int64_t>(kCanBus)}}, "ego motion since the last frame"},
        {{"lidar2img", DType::float32, {1, cameras, 4, 4}}, "projection to the resized image"}};
}

std::vector<Listed> outputs_of(const Sizes& sizes, DType state, int64_t layers)
{
    return {{{"bev_embed", state, {sizes.bev_cells, 1, sizes.embed_dim}}, "state for the next frame"},
        {{"outputs_classes", DType::float32, {layers, 1, sizes.queries, static_cast<int64_t>(kClasses)}},
            "class logits"},
        {{"outputs_coords", DType::float32, {layers, 1, sizes.queries, static_cast<int64_t>(kBoxCode)}},
            "box codes, centres in metres"}};
}

std::vector<TensorSpec> tensors_of(const Field& list, std::vector<Listed> wanted)
{
    list.require_length(wanted.size());
    std::vector<TensorSpec> tensors;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const Field entry = list[i];
        TensorSpec& tensor = wanted[i].tensor;
        entry["name"].require(Value(tensor.name));
        entry["dtype"].require(text_value(name_of(tensor.dtype)));
        Value::List axes;
        for (const int64_t axis : tensor.shape) {
            axes.emplace_back(axis);
        }
        entry["shape"].require(Value(std::move(axes)));
        entry["meaning"].require(text_value(wanted[i].meaning));
        require_members(entry, 4);
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

std::array<double, 6> center_range_of(const Field& field)
{
    field.require_length(6);
    std::array<double, 6> range{};
    for (std::size_t i = 0; i < range.size(); ++i) {
        range[i] = field[i].number();
    }
    for (std::size_t i = 0; i < 3; ++i) {
        if (!(range[i] < range[i + 3])) {
            field[i].refuse("less than the upper end of its range, " + field[i + 3].value().described());
        }
    }
    return range;
}

template <std::size_t Count>
void take_names(const Field& list, const char* wanted, std::array<std::string, Count>& names)
{
    list.require(known(wanted));
    for (std::size_t i = 0; i < Count; ++i) {
        names[i] = list[i].text();
    }
}

void read_decoding(const Field& decode, const Field& spec, Contract& contract)
{
    for (const auto& [name, meaning] :
        {std::pair{"score", kScore}, {"candidates", kCandidates}, {"yaw", kYaw}, {"size", kBoxSize}}) {
        decode[name].require(text_value(meaning));
    }
    for (const char* name : {"max_boxes", "post_center_range"}) {
        decode[name].require(spec[name].value());
    }
    require_members(decode, 6);
    const int64_t candidates = contract.queries * static_cast<int64_t>(kClasses);
    contract.max_boxes = small(decode["max_boxes"], 1, candidates < kMaxSize ? candidates : kMaxSize);
    contract.post_center_range = center_range_of(decode["post_center_range"]);
}

double max_gap_of(const Field& state)
{
    for (const auto& [name, tensor] :
        {std::pair{"input", "prev_bev"}, {"output", "bev_embed"}, {"flag", "use_prev_bev"}}) {
        state[name].require(text_value(tensor));
    }
    require_members(state, 4);
    const double seconds = state["max_gap_s"].number();
    if (!(seconds > 0)) {
        state["max_gap_s"].refuse("a positive number of seconds");
    }
    return seconds;
}

const std::string& choice(const Field& field, std::initializer_list<const char*> choices)
{
    const std::string& found = field.text();
    std::string listed;
    for (const char* name : choices) {
        if (found == name) {
            return found;
        }
        listed += (listed.empty() ? "one of " : ", ") + std::string(name);
    }
    field.refuse(std::move(listed));
}

void require_version(const Field& document)
{
    const Field version = document["contract_version"];
    if (!json::equal(version.value(), Value(int64_t{QDBEV_RUNTIME_CONTRACT}))) {
        throw Error(Code::bad_input, document.document().name() + " is of version " + version.value().described(),
            "version " + std::to_string(QDBEV_RUNTIME_CONTRACT),
            "use the runtime library of the release that built the bundle, or build it again");
    }
}

}  // namespace

std::size_t size_of(DType type) noexcept
{
    switch (type) {
    case DType::float32: return 4;
    case DType::float16: return 2;
    case DType::uint8: return 1;
    }
    return 0;
}

const char* name_of(DType type) noexcept
{
    switch (type) {
    case DType::float32: return "float32";
    case DType::float16: return "float16";
    case DType::uint8: return "uint8";
    }
    return "unknown";
}

std::size_t TensorSpec::elements() const noexcept
{
    std::size_t count = 1;
    for (const int64_t axis : shape) {
        count *= axis > 0 ? static_cast<std::size_t>(axis) : 0;
    }
    return count;
}

Contract contract_of(const Field& document)
{
    require_version(document);
    const std::string& io = choice(document["io"], {"fp32", "fp16", "mlperf"});
    const std::string& image = choice(document["image"], {"float32", "uint8"});
    const Field spec = document["spec"];
    document["variant"].require(spec["name"].value());

    Contract contract;
    contract.variant = document["variant"].text();
    contract.preprocess = preprocess_of(document, image == "uint8");
    const Sizes sizes = sizes_of(spec);
    contract.queries = static_cast<int32_t>(sizes.queries);
    contract.decoder_layers = io == "mlperf" ? static_cast<int32_t>(sizes.decoder_layers) : 1;
    const DType state = io == "fp16" ? DType::float16 : DType::float32;
    contract.inputs = tensors_of(document["inputs"], inputs_of(sizes, contract.preprocess, state, io != "mlperf"));
    contract.outputs = tensors_of(document["outputs"], outputs_of(sizes, state, contract.decoder_layers));
    take_names(document["cameras"], kCameraNames, contract.cameras);
    take_names(document["classes"], kClassNames, contract.classes);
    document["box_code"].require(known(kBoxCodeParts));
    document["can_bus"].require(known(kCanBusParts));
    contract.max_gap_s = max_gap_of(document["state"]);
    read_decoding(document["decode"], spec, contract);
    return contract;
}

}  // namespace qdbev::runtime
