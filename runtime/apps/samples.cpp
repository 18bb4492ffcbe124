#include "samples.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>
#include <utility>

#include "json.h"
#include "qdbev_runtime/status.h"

namespace qdbev::apps {

namespace {

using namespace runtime;

constexpr const char* kWritten = "a folder that --save-samples wrote";
constexpr const char* kNextStep = "qdbev-deploy bench BUNDLE --save-samples DIR";

struct ArrayKind {
    std::string descr;  // as NumPy writes it: byte order, kind, bytes
    std::vector<int64_t> shape;
};

std::string described(const ArrayKind& kind)
{
    std::string text = kind.descr == "<f4" ? "float32" : kind.descr == "|u1" ? "uint8" : json::quoted(kind.descr);
    text += " [";
    for (std::size_t axis = 0; axis < kind.shape.size(); ++axis) {
        text += (axis == 0 ? "" : ", ") + std::to_string(kind.shape[axis]);
    }
    return text + "]";
}

// The header of an .npy file is a Python literal, always spelt like this:
//   {'descr': '<f4', 'fortran_order': False, 'shape': (12, 1, 6, 4, 4), }
class Header {
public:
    Header(std::string_view text, const std::string& path) : left_(text), path_(path) {}

    ArrayKind read()
    {
        ArrayKind kind;
        take("{'descr': '");
        kind.descr = std::string(left_.substr(0, left_.find('\'')));
        take(kind.descr);
        take("', 'fortran_order': False, 'shape': (");
        while (!left_.empty() && left_.front() != ')') {
            int64_t size = 0;
            const auto [end, error] = std::from_chars(left_.data(), left_.data() + left_.size(), size);
            if (error != std::errc() || size < 0) {
                refuse();
            }
            left_.remove_prefix(static_cast<std::size_t>(end - left_.data()));
            kind.shape.push_back(size);
            if (!left_.empty() && left_.front() == ',') {
                take(",");
                left_.remove_prefix(std::min(left_.find_first_not_of(' '), left_.size()));
            }
        }
        take("), }");
        if (left_.find_first_not_of(" \n") != std::string_view::npos) {
            refuse();
        }
        return kind;
    }

private:
    void take(std::string_view expected)
    {
        if (left_.substr(0, expected.size()) != expected) {
            refuse();
        }
        left_.remove_prefix(expected.size());
    }

    [[noreturn]] void refuse() const
    {
        throw Error(Code::bad_input, path_ + " with a header that goes on with " + json::quoted(left_.substr(0, 40)),
            "an array in C order, as NumPy writes one", kNextStep);
    }

    std::string_view left_;
    const std::string& path_;
};

// A pipe would have the program wait for who writes into it.
std::ifstream opened(const std::string& path, std::ios::openmode mode)
{
    std::error_code ignored;
    return std::filesystem::is_regular_file(path, ignored) ? std::ifstream(path, mode) : std::ifstream();
}

// An array of exactly that kind, all of it in memory: pages that come later would be part of a frame's time.
std::unique_ptr<unsigned char[]> read_array(const std::string& path, const ArrayKind& wanted)
{
    std::ifstream file = opened(path, std::ios::binary | std::ios::ate);
    const auto file_size = static_cast<std::streamoff>(file.tellg());
    file.seekg(0);
    std::array<unsigned char, 12> prefix{};  // magic, version, length of the header
    const auto read = [&file](void* data, std::size_t size) {
        file.read(static_cast<char*>(data), static_cast<std::streamsize>(size));
        return file.good();
    };
    constexpr std::array<unsigned char, 6> kMagic{0x93, 'N', 'U', 'M', 'P', 'Y'};
    if (!file || !read(prefix.data(), 8) || !std::equal(kMagic.begin(), kMagic.end(), prefix.begin())) {
        throw Error(Code::bad_input, path + " is missing, cannot be read, or is no .npy file", kWritten, kNextStep);
    }
    const int version = prefix[6];
    if ((version != 1 && version != 2) || prefix[7] != 0) {
        throw Error(Code::bad_input, path + " of .npy version " + std::to_string(version) + "."
                + std::to_string(prefix[7]), "version 1.0 or 2.0", kNextStep);
    }
    const std::size_t length_bytes = version == 1 ? 2 : 4;
    std::size_t length = 0;
    std::string text;
    if (read(prefix.data() + 8, length_bytes)) {
        for (std::size_t i = 0; i < length_bytes; ++i) {
            length |= std::size_t{prefix[8 + i]} << (8 * i);
        }
        text.resize(std::min(length, std::size_t{1} << 16));  // ours has some hundred bytes
    }
    if (text.size() != length || !read(text.data(), length)) {
        throw Error(Code::bad_input, path + " ends within its header", "a whole .npy file", kNextStep);
    }
    const ArrayKind found = Header(text, path).read();
    if (found.descr != wanted.descr || found.shape != wanted.shape) {
        throw Error(Code::bad_input, path + " of " + described(found),
            described(wanted) + ": as many frames as frames.json names, as this bundle takes them",
            "write them with --save-samples from a bundle of the same variant and image input");
    }
    std::size_t bytes = found.descr == "<f4" ? sizeof(float) : 1;
    for (const int64_t size : found.shape) {
        bytes *= static_cast<std::size_t>(size);
    }
    const auto begin = static_cast<std::streamoff>(8 + length_bytes + length);
    if (file_size - begin != static_cast<std::streamoff>(bytes)) {
        throw Error(Code::bad_input, path + " with " + std::to_string(file_size - begin) + " bytes of data",
            std::to_string(bytes) + ", as its header says", kNextStep);
    }
    std::unique_ptr<unsigned char[]> data(new unsigned char[bytes]);
    if (!read(data.get(), bytes)) {
        throw Error(Code::bad_input, path + " cannot be read to its end", "a whole .npy file", kNextStep);
    }
    return data;
}

template <std::size_t N>
std::array<double, N> numbers(const json::Field& field)
{
    field.require_length(N);
    std::array<double, N> values{};
    for (std::size_t i = 0; i < N; ++i) {
        values[i] = field[i].number();
    }
    return values;
}

EgoState ego_of(const json::Field& field)
{
    EgoState ego;
    ego.timestamp_us = field["timestamp_us"].integer(std::numeric_limits<int64_t>::min(),
        std::numeric_limits<int64_t>::max());
    ego.translation = numbers<3>(field["translation"]);
    ego.rotation = numbers<4>(field["rotation"]);
    ego.acceleration = numbers<3>(field["acceleration"]);
    ego.rotation_rate = numbers<3>(field["rotation_rate"]);
    ego.velocity = numbers<3>(field["velocity"]);
    return ego;
}

// What frames.json says; the arrays are left to the caller.
Samples read_document(const std::string& path)
{
    std::ifstream file = opened(path, std::ios::binary);
    std::ostringstream text;
    if (!file || !(text << file.rdbuf())) {
        throw Error(Code::bad_input, path + " is missing or cannot be read", kWritten, kNextStep);
    }
    const json::Document document(path, kNextStep, text.str());
    const json::Field root = document.root();
    if (const std::string& kind = root["kind"].text(); kind != "sequence" && kind != "random") {
        root["kind"].refuse("'sequence' or 'random'");
    }
    Samples samples;
    samples.native = root["native"].flag();
    samples.source = root["source"].text();
    const json::Field frames = root["frames"];
    for (std::size_t i = 0; i < frames.length(); ++i) {
        samples.frames.push_back({frames[i]["scene"].string(), ego_of(frames[i]["ego"]), nullptr, nullptr});
    }
    if (samples.frames.empty()) {
        frames.refuse("at least one frame");
    }
    return samples;
}

}  // namespace

Frame Samples::frame(std::size_t index) const noexcept
{
    const SampleFrame& sample = frames[index];
    Frame frame;
    frame.lidar2img = sample.lidar2img;
    frame.ego = sample.ego;
    frame.scene = sample.scene;
    if (pictures.height == 0) {
        frame.images = ImageTensor{sample.image, Memory::host};
        return frame;
    }
    CameraImages cameras;
    const auto picture = 3 * static_cast<std::size_t>(pictures.height) * static_cast<std::size_t>(pictures.width);
    for (std::size_t camera = 0; camera < kCameras; ++camera) {
        cameras.data[camera] = sample.image + camera * picture;
    }
    frame.images = cameras;
    return frame;
}

Samples read_samples(const std::string& folder, const Contract& contract)
{
    Samples samples = read_document(folder + "/frames.json");
    const auto count = static_cast<int64_t>(samples.frames.size());
    const int64_t cameras = kCameras;
    const Size input = contract.preprocess.padded;
    ArrayKind wanted{"<f4", {count, 1, cameras, 3, input.height, input.width}};
    if (samples.native || contract.preprocess.in_graph) {
        samples.pictures = contract.preprocess.source;
        wanted = {"|u1", {count, 1, cameras, samples.pictures.height, samples.pictures.width, 3}};
    }
    samples.projections = read_array(folder + "/lidar2img.npy", {"<f4", {count, 1, cameras, 4, 4}});
    samples.images = read_array(folder + "/images.npy", wanted);
    std::size_t image_bytes = wanted.descr == "<f4" ? sizeof(float) : 1;
    for (auto size = wanted.shape.begin() + 1; size != wanted.shape.end(); ++size) {
        image_bytes *= static_cast<std::size_t>(*size);
    }
    const unsigned char* image = samples.images.get();
    const float* lidar2img = reinterpret_cast<const float*>(samples.projections.get());
    for (SampleFrame& frame : samples.frames) {
        frame.image = std::exchange(image, image + image_bytes);
        frame.lidar2img = std::exchange(lidar2img, lidar2img + kLidar2Img);
    }
    return samples;
}

}  // namespace qdbev::apps
