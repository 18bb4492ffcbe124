// Folders of recorded frames: read as NumPy writes them, refused where they are damaged or for another bundle.
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "check.h"
#include "qdbev_runtime/status.h"
#include "samples.h"

namespace {

using namespace qdbev::runtime;
using qdbev::apps::read_samples;
using qdbev::apps::Samples;
namespace fs = std::filesystem;

const char* const kDocument =
    R"({"kind": "sequence", "source": "a drive", "native": NATIVE, "frames": [)"
    R"({"scene": "scene-1", "ego": {"timestamp_us": 1533151603547590, "translation": [1.5, -2, 0.25],)"
    R"( "rotation": [0, 1.0, 0, 0], "acceleration": [1, 2, 3], "rotation_rate": [4, 5, 6], "velocity": [7, 8, 9]}},)"
    R"( {"scene": "", "ego": {"timestamp_us": 2, "translation": [0, 0, 0], "rotation": [1, 0, 0, 0],)"
    R"( "acceleration": [0, 0, 0], "rotation_rate": [0, 0, 0], "velocity": [0, 0, 0]}}]})";

Contract contract_of(bool in_graph)
{
    Contract contract;
    contract.preprocess.in_graph = in_graph;
    contract.preprocess.source = {3, 5};
    contract.preprocess.resized = {2, 4};
    contract.preprocess.padded = {4, 4};
    return contract;
}

std::string npy(const std::string& descr, const std::string& shape, const std::string& data, int version = 1)
{
    std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    header.resize((header.size() / 64 + 2) * 64 - (version == 1 ? 11 : 13), ' ');
    header += '\n';
    std::string out = "\x93NUMPY";
    const auto length = header.size();
    out += {static_cast<char>(version), '\0', static_cast<char>(length & 255), static_cast<char>(length >> 8)};
    out += version == 1 ? "" : std::string(2, '\0');
    return out + header + data;
}

std::string floats(std::size_t count)
{
    std::string bytes(count * sizeof(float), '\0');
    for (std::size_t i = 0; i < count; ++i) {
        const auto value = static_cast<float>(i);
        std::memcpy(&bytes[i * sizeof value], &value, sizeof value);
    }
    return bytes;
}

std::string replaced(std::string text, const std::string& from, const std::string& to)
{
    const std::size_t at = text.find(from);
    CHECK(at != std::string::npos);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

class Folder {
public:
    Folder() : path_(fs::temp_directory_path() / "qdbev-samples-XXXXXX")
    {
        std::string name = path_.string();
        if (mkdtemp(name.data()) == nullptr) {
            throw std::runtime_error("no temporary folder");
        }
        path_ = name;
    }
    ~Folder() { fs::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    void write(const std::string& name, const std::string& content) const
    {
        std::ofstream(path_ / name, std::ios::binary) << content;
    }
    void remove(const std::string& name) const { fs::remove(path_ / name); }

    // A drive of two frames as the network takes them, or as the cameras do.
    void fill(bool pictures, bool native) const
    {
        write("frames.json", replaced(kDocument, "NATIVE", native ? "true" : "false"));
        write("lidar2img.npy", npy("<f4", "2, 1, 6, 4, 4", floats(2 * 96)));
        std::string bytes(2 * 6 * 45, '\0');
        for (std::size_t i = 0; i < bytes.size(); ++i) {
            bytes[i] = static_cast<char>(i % 251);
        }
        write("images.npy", pictures ? npy("|u1", "2, 1, 6, 3, 5, 3", bytes)
                                     : npy("<f4", "2, 1, 6, 3, 4, 4", floats(2 * 288)));
    }

    Samples read(bool in_graph) const { return read_samples(path_.string(), contract_of(in_graph)); }

    std::string refusal(bool in_graph = false) const
    {
        try {
            read(in_graph);
        } catch (const Error& error) {
            CHECK(error.code() == Code::bad_input && !error.next_step().empty());
            return error.what();
        }
        return "";
    }

private:
    fs::path path_;
};

void network_inputs_are_read(const Folder& folder)
{
    folder.fill(false, false);
    const Samples samples = folder.read(false);
    CHECK(samples.frames.size() == 2 && !samples.native && samples.source == "a drive");
    CHECK(samples.frames[0].scene == "scene-1");
    for (std::size_t i = 0; i < 2; ++i) {
        const Frame frame = samples.frame(i);
        const auto* image = std::get_if<ImageTensor>(&frame.images);
        CHECK(image != nullptr && image->memory == Memory::host);
        if (image != nullptr) {
            const auto* values = static_cast<const float*>(image->data);
            CHECK(values[0] == static_cast<float>(288 * i) && values[287] == static_cast<float>(288 * i + 287));
        }
        CHECK(frame.lidar2img[0] == static_cast<float>(96 * i));
        CHECK(frame.lidar2img[95] == static_cast<float>(96 * i + 95));
        CHECK(frame.scene == (i == 0 ? "scene-1" : ""));
    }
    const EgoState ego = samples.frame(0).ego;
    CHECK(ego.timestamp_us == 1533151603547590);
    CHECK((ego.translation == std::array<double, 3>{1.5, -2, 0.25}));
    CHECK((ego.rotation == std::array<double, 4>{0, 1, 0, 0}));
    CHECK((ego.acceleration == std::array<double, 3>{1, 2, 3}));
    CHECK((ego.rotation_rate == std::array<double, 3>{4, 5, 6}));
    CHECK((ego.velocity == std::array<double, 3>{7, 8, 9}));
}

void pictures_are_read(const Folder& folder)
{
    for (const bool in_graph : {false, true}) {
        folder.fill(true, !in_graph);
        const Samples read = folder.read(in_graph);
        CHECK(read.native == !in_graph);
        const Frame frame = read.frame(1);
        const auto* cameras = std::get_if<CameraImages>(&frame.images);
        CHECK(cameras != nullptr && cameras->row_bytes == 0 && !cameras->bgr);
        for (std::size_t camera = 0; cameras != nullptr && camera < kCameras; ++camera) {
            CHECK(cameras->data[camera][0] == (270 + 45 * camera) % 251);
            CHECK(cameras->data[camera][44] == (270 + 45 * camera + 44) % 251);
        }
    }
}

void samples_can_be_moved(const Folder& folder)
{
    folder.fill(false, false);
    Samples first = folder.read(false);
    const Samples samples = std::move(first);
    const Frame frame = samples.frame(1);
    CHECK(frame.lidar2img[0] == 96 && static_cast<const float*>(std::get<ImageTensor>(frame.images).data)[1] == 289);
}

void other_bundles_frames_are_refused(const Folder& folder)
{
    folder.fill(false, false);
    CHECK(check::contains(folder.refusal(true), "of float32 [2, 1, 6, 3, 4, 4]; needed: uint8 [2, 1, 6, 3, 5, 3]"));
    folder.fill(true, false);
    CHECK(check::contains(folder.refusal(), "of uint8 [2, 1, 6, 3, 5, 3]; needed: float32 [2, 1, 6, 3, 4, 4]"));
    folder.fill(false, true);  // the document says that they are native
    CHECK(check::contains(folder.refusal(), "needed: uint8 [2, 1, 6, 3, 5, 3]"));
    const std::string data = floats(2 * 288);
    for (const char* shape : {"1, 1, 6, 3, 4, 4", "3, 1, 6, 3, 4, 4", "2, 6, 3, 4, 4", "2, 1, 6, 3, 4, 8", "2,", "",
             "99999999999999, 1, 6, 3, 4, 4"}) {
        folder.fill(false, false);
        folder.write("images.npy", npy("<f4", shape, data));
        CHECK(check::contains(folder.refusal(), "needed: float32 [2, 1, 6, 3, 4, 4]: as many frames as frames.json"));
    }
    for (const char* descr : {">f4", "<f8", "<f2", "|b1", "|O"}) {
        folder.write("images.npy", npy(descr, "2, 1, 6, 3, 4, 4", data));
        CHECK(check::contains(folder.refusal(), (std::string("images.npy of '") + descr + "' [2").c_str()));
    }
    folder.fill(false, false);
    folder.write("lidar2img.npy", npy("<f4", "2, 1, 6, 3, 4", floats(2 * 72)));
    CHECK(check::contains(folder.refusal(), "lidar2img.npy of float32 [2, 1, 6, 3, 4]"));
}

void damaged_arrays_are_refused(const Folder& folder)
{
    folder.fill(false, false);
    const std::string whole = npy("<f4", "2, 1, 6, 3, 4, 4", floats(2 * 288));
    const auto with = [&folder](const std::string& content) {
        folder.write("images.npy", content);
        return folder.refusal();
    };
    CHECK(with(whole).empty());
    CHECK(with(npy("<f4", "2, 1, 6, 3, 4, 4", floats(2 * 288), 2)).empty());
    CHECK(check::contains(with(npy("<f4", "2, 1, 6, 3, 4, 4", floats(2 * 288), 3)), "of .npy version 3.0"));
    CHECK(check::contains(with(replaced(whole, "NUMPY", "NUMPX")), "is no .npy file"));
    CHECK(check::contains(with(replaced(whole, "False", "True ")), "'fortran_order': True"));
    CHECK(check::contains(with(replaced(whole, "2, 1,", "2, -1")), "header that goes on with"));
    CHECK(check::contains(with(replaced(whole, "2, 1,", "2; 1,")), "header that goes on with"));
    CHECK(check::contains(with(replaced(whole, "), }", "), 'x': 1}")), "header that goes on with"));
    CHECK(check::contains(with(replaced(whole, "), } ", "), } 1")), "header that goes on with ' 1"));
    CHECK(check::contains(with(whole + "x"), "with 2305 bytes of data; needed: 2304, as its header says"));
    // Cut anywhere, it is refused with a sentence.
    for (std::size_t length = 0; length < whole.size(); length += length < 300 ? 1 : 97) {
        CHECK(!with(whole.substr(0, length)).empty());
    }
    std::string endless = whole.substr(0, 10);
    endless[8] = endless[9] = '\xff';
    CHECK(check::contains(with(endless), "ends within its header"));
    endless[6] = 2;
    CHECK(check::contains(with(endless + "\xff\xff"), "ends within its header"));
    folder.remove("images.npy");
    CHECK(check::contains(folder.refusal(), "images.npy is missing, cannot be read, or is no .npy file"));
}

void damaged_documents_are_refused(const Folder& folder)
{
    folder.fill(false, false);
    const std::string whole = replaced(kDocument, "NATIVE", "false");
    const auto with = [&](const std::string& from, const std::string& to) {
        folder.write("frames.json", replaced(whole, from, to));
        return folder.refusal();
    };
    CHECK(with("false", "false").empty());
    CHECK(with("sequence", "random").empty());
    CHECK(check::contains(with("sequence", "video"), "'kind' is 'video'; needed: 'sequence' or 'random'"));
    CHECK(check::contains(with("false", "0"), "'native' is 0"));
    CHECK(check::contains(with("\"scene\": \"\"", "\"scene\": null"), "'frames[1].scene' is null"));
    CHECK(check::contains(with("[4, 5, 6]", "[4, 5]"), "'frames[0].ego.rotation_rate' is"));
    CHECK(check::contains(with("[4, 5, 6]", "[4, \"5\", 6]"), "'frames[0].ego.rotation_rate[1]' is '5'"));
    CHECK(check::contains(with("590,", "590.5,"), "'frames[0].ego.timestamp_us' is"));
    CHECK(check::contains(with("velocity", "speed"), "has no field 'frames[0].ego.velocity'"));
    CHECK(check::contains(with("[1, 2, 3]", "[1, 2, NaN]"), "is no JSON"));
    folder.write("frames.json", R"({"kind": "random", "source": "", "native": false, "frames": []})");
    CHECK(check::contains(folder.refusal(), "needed: at least one frame"));
    folder.remove("frames.json");
    CHECK(check::contains(folder.refusal(), "frames.json is missing or cannot be read"));
}

}  // namespace

int main()
{
    const Folder folder;
    network_inputs_are_read(folder);
    pictures_are_read(folder);
    samples_can_be_moved(folder);
    other_bundles_frames_are_refused(folder);
    damaged_arrays_are_refused(folder);
    damaged_documents_are_refused(folder);
    return check::report();
}
