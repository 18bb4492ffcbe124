// The mathematics of a step on inputs that a Python test wrote, for it to compare: same_as_python WHAT FOLDER.
//
// Arrays are files of their bare values: FOLDER/parameters holds what is said once, in double precision.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "decode.h"
#include "ego.h"
#include "past.h"
#include "preprocess.h"

namespace {

using namespace qdbev::runtime;

struct Folder {
    std::string path;

    template <typename T>
    std::vector<T> read(const char* name) const
    {
        std::ifstream file(path + "/" + name, std::ios::binary);
        const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        if (!file || bytes.empty() || bytes.size() % sizeof(T) != 0) {
            throw std::runtime_error(path + "/" + name + " cannot be read");
        }
        std::vector<T> values(bytes.size() / sizeof(T));
        std::memcpy(values.data(), bytes.data(), bytes.size());
        return values;
    }

    template <typename T>
    void write(const std::vector<T>& values) const
    {
        std::ofstream file(path + "/out", std::ios::binary);
        const auto size = static_cast<std::streamsize>(values.size() * sizeof(T));
        file.write(reinterpret_cast<const char*>(values.data()), size);
        if (!file.flush()) {
            throw std::runtime_error(path + "/out cannot be written");
        }
    }
};

// The next values of a list.
class Values {
public:
    explicit Values(const std::vector<double>& values) : at_(values.data()), end_(at_ + values.size()) {}

    bool more() const { return at_ != end_; }
    double next() { return more() ? *at_++ : throw std::runtime_error("too few values"); }
    int32_t integer() { return static_cast<int32_t>(next()); }
    template <typename T, std::size_t N>
    void fill(std::array<T, N>& values)
    {
        for (T& value : values) {
            value = static_cast<T>(next());
        }
    }

private:
    const double* at_;
    const double* end_;
};

void require(const Status& status)
{
    if (!status.ok()) {
        throw std::runtime_error(status.message());
    }
}

EgoState next_ego(Values& values)
{
    EgoState ego;
    values.fill(ego.translation);
    values.fill(ego.rotation);
    values.fill(ego.acceleration);
    values.fill(ego.rotation_rate);
    values.fill(ego.velocity);
    return ego;
}

// What each state is refused with, line by line.
void check_egos(const Folder& folder)
{
    const auto numbers = folder.read<double>("egos");
    for (Values values(numbers); values.more();) {
        const Status status = check(next_ego(values));
        std::cout << status.message() << "\n";
    }
}

// Before each state: whether it follows the one before it.
void can_bus(const Folder& folder)
{
    const auto numbers = folder.read<double>("egos");
    std::vector<float> out;
    EgoState before;
    for (Values values(numbers); values.more();) {
        const bool follows = values.next() != 0;
        const EgoState ego = next_ego(values);
        out.resize(out.size() + kCanBus);
        if (!can_bus_vector(ego, follows ? &before : nullptr, out.data() + out.size() - kCanBus)) {
            throw std::runtime_error("an ego motion beyond single precision");
        }
        before = ego;
    }
    folder.write(out);
}

// Lines of "TIMESTAMP SCENE", or "reset"; an answer for each.
void judge(const Folder& folder)
{
    Past past(folder.read<double>("parameters").at(0));
    std::ifstream lines(folder.path + "/frames");
    for (std::string word; lines >> word;) {
        if (word == "reset") {
            past.forget();
            continue;
        }
        EgoState ego;
        ego.timestamp_us = std::stoll(word);
        std::string scene;
        lines >> scene;
        Verdict verdict;
        if (const Status status = past.judge(ego, scene, verdict); !status.ok()) {
            std::cout << status.message() << "\n";
            continue;
        }
        past.commit(ego, scene);
        std::cout << (verdict.reset ? verdict.reason.c_str() : "goes on") << "\n";
    }
}

Preprocess next_preprocess(Values& values)
{
    Preprocess preprocess;
    preprocess.bgr = values.next() != 0;
    values.fill(preprocess.mean);
    values.fill(preprocess.std);
    for (Size* size : {&preprocess.source, &preprocess.resized, &preprocess.padded}) {
        size->height = values.integer();
        size->width = values.integer();
    }
    return preprocess;
}

CameraImages next_images(Values& values, const Preprocess& preprocess, const std::vector<uint8_t>& pixels)
{
    CameraImages images;
    images.bgr = values.next() != 0;
    images.row_bytes = static_cast<std::size_t>(values.next());
    for (std::size_t camera = 0; camera < kCameras; ++camera) {
        images.data[camera] = pixels.data() + camera * (pixels.size() / kCameras);
    }
    const auto height = static_cast<std::size_t>(preprocess.source.height);
    const auto row = images.row_bytes == 0 ? 3 * static_cast<std::size_t>(preprocess.source.width) : images.row_bytes;
    if (pixels.size() != kCameras * height * row) {
        throw std::runtime_error("pictures of another size");
    }
    return images;
}

void prepare(const Folder& folder, bool in_graph)
{
    const auto parameters = folder.read<double>("parameters");
    const auto pixels = folder.read<uint8_t>("images");
    Values values(parameters);
    const Preprocess preprocess = next_preprocess(values);
    const CameraImages images = next_images(values, preprocess, pixels);
    const auto area = [](const Size& size) {
        return static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
    };
    if (in_graph) {
        std::vector<uint8_t> out(kCameras * 3 * area(preprocess.source));
        require(copy_native(images, preprocess, out.data()));
        folder.write(out);
    } else {
        // What lay there before must not show through, in the pads neither.
        std::vector<float> out(kCameras * 3 * area(preprocess.padded), -7.0F);
        Preprocessor preprocessor(preprocess);
        require(preprocessor.run(images, out.data()));
        require(preprocessor.run(images, out.data()));
        folder.write(out);
    }
}

void scale(const Folder& folder)
{
    const auto parameters = folder.read<double>("parameters");
    const auto native = folder.read<double>("lidar2img");
    Values values(parameters);
    std::vector<float> out(kLidar2Img);
    if (native.size() != kLidar2Img) {
        throw std::runtime_error("projections of another size");
    }
    scale_lidar2img(native.data(), next_preprocess(values), out.data());
    folder.write(out);
}

// Boxes as rows of center, size, yaw, velocity, score, label.
void decode(const Folder& folder)
{
    const auto parameters = folder.read<double>("parameters");
    const auto classes = folder.read<float>("classes");
    const auto coords = folder.read<float>("coords");
    Values values(parameters);
    Contract contract;
    contract.decoder_layers = values.integer();
    contract.queries = values.integer();
    contract.max_boxes = values.integer();
    const auto min_score = static_cast<float>(values.next());
    values.fill(contract.post_center_range);
    const auto size = static_cast<std::size_t>(contract.decoder_layers * contract.queries) * 10;
    if (classes.size() != size || coords.size() != size) {
        throw std::runtime_error("outputs of another size");
    }
    Decoder decoder(contract, min_score);
    std::vector<float> out;
    // Twice: what a run leaves behind must not matter to the next.
    const std::size_t first = decoder.run(classes.data(), coords.data());
    const std::size_t count = decoder.run(classes.data(), coords.data());
    if (count != first) {
        throw std::runtime_error("another number of boxes the second time");
    }
    for (const Box* box = decoder.boxes(); box != decoder.boxes() + count; ++box) {
        out.insert(out.end(), box->center.begin(), box->center.end());
        out.insert(out.end(), box->size.begin(), box->size.end());
        out.push_back(box->yaw);
        out.insert(out.end(), box->velocity.begin(), box->velocity.end());
        out.insert(out.end(), {box->score, static_cast<float>(box->label)});
    }
    folder.write(out);
}

void run(const std::string& what, const Folder& folder)
{
    if (what == "check") {
        check_egos(folder);
    } else if (what == "can_bus") {
        can_bus(folder);
    } else if (what == "judge") {
        judge(folder);
    } else if (what == "preprocess" || what == "copy_native") {
        prepare(folder, what == "copy_native");
    } else if (what == "scale_lidar2img") {
        scale(folder);
    } else if (what == "decode") {
        decode(folder);
    } else {
        throw std::runtime_error("no part of a step is called " + what);
    }
}

}  // namespace

int main(int count, char** words)
{
    if (count != 3) {
        std::fprintf(stderr, "usage: same_as_python WHAT FOLDER\n");
        return 2;
    }
    try {
        run(words[1], Folder{words[2]});
        return 0;
    } catch (const std::exception& failure) {
        std::fprintf(stderr, "%s\n", failure.what());
        return 1;
    }
}
