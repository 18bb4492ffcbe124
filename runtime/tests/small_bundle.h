// Writes a small bundle that holds, as qdbev-deploy build --int8 makes one of the variant micro with ONNX Runtime; its
// engine is no network. Tests damage its documents.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>

#include "sha256.h"

namespace small_bundle {

inline constexpr const char* kContract = R"json({"contract_version": 1,
"variant": "micro",
"spec": {"name": "micro", "preprocess": {"channel_order": "rgb", "mean": [123.675, 116.28, 103.53],
"std": [58.395, 57.12, 57.375], "source_hw": [900, 1600], "resized_hw": [180, 320], "padded_hw": [192, 320]},
"backbone": {"block": "basic", "blocks": [2, 2, 2, 2], "width": 32, "style": "pytorch", "out_stages": [3, 4],
"dcn_stages": [], "frozen_stages": 0, "frozen_norm": false}, "bev_hw": [50, 50], "encoder_layers": 2,
"num_levels": 2, "embed_dim": 128, "heads": 4, "ffn_dim": 256, "decoder_layers": 3, "queries": 300,
"level_embed_rows": 4, "temporal_points": 4, "spatial_points": 8, "pillar_points": 4, "decoder_points": 4,
"pc_range": [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0], "post_center_range": [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
"rotate_center": null, "max_boxes": 200, "dropout": 0.1},
"io": "fp32",
"image": "float32",
"inputs": [{"name": "image", "dtype": "float32", "shape": [1, 6, 3, 192, 320],
"meaning": "normalised, padded camera frames, in CAMERAS order"}, {"name": "prev_bev", "dtype": "float32",
"shape": [2500, 1, 128], "meaning": "bev_embed of the last frame"}, {"name": "use_prev_bev", "dtype": "float32",
"shape": [1], "meaning": "0 on the first frame of a scene, else 1"}, {"name": "can_bus", "dtype": "float32",
"shape": [18], "meaning": "ego motion since the last frame"}, {"name": "lidar2img", "dtype": "float32",
"shape": [1, 6, 4, 4], "meaning": "projection to the resized image"}],
"outputs": [{"name": "bev_embed", "dtype": "float32", "shape": [2500, 1, 128],
"meaning": "state for the next frame"}, {"name": "outputs_classes", "dtype": "float32", "shape": [1, 1, 300, 10],
"meaning": "class logits"}, {"name": "outputs_coords", "dtype": "float32", "shape": [1, 1, 300, 10],
"meaning": "box codes, centres in metres"}],
"cameras": ["CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"],
"classes": ["car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle",
"pedestrian", "traffic_cone"],
"box_code": ["cx", "cy", "log_w", "log_l", "cz", "log_h", "sin", "cos", "vx", "vy"],
"preprocess": {"in_graph": false, "channel_order": "rgb", "mean": [123.675, 116.28, 103.53],
"std": [58.395, 57.12, 57.375], "source_hw": [900, 1600], "resized_hw": [180, 320], "padded_hw": [192, 320],
"scale_xy": [0.2, 0.2]},
"state": {"input": "prev_bev", "output": "bev_embed", "flag": "use_prev_bev", "max_gap_s": 2.0},
"can_bus": {"size": 18, "translation_delta_m": [0, 3], "rotation_wxyz": [3, 7], "acceleration": [7, 10],
"rotation_rate": [10, 13], "velocity": [13, 16], "yaw_rad": 16, "yaw_delta_deg": 17},
"decode": {"score": "sigmoid of the class logit",
"candidates": "every query with every class, sorted by falling score, ties by rising index", "max_boxes": 200,
"post_center_range": [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
"yaw": "network rotation r = atan2(sin, cos); nuScenes yaw = -r - pi/2", "size": "exp of log_w, log_l, log_h"}})json";

inline constexpr const char* kLayers = R"json({"schema": "qdbev-layers/1", "layers": [
{"name": "conv", "kind": "Conv", "precision": "float32", "nodes": ["stem/Conv"],
 "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 6, 3, 192, 320], "format": ""}], "outputs": [],
 "tactic": "", "weight_bytes": 8, "macs": 12, "time_ms": 0.008}]})json";

inline constexpr const char* kGuard = R"json({"schema": "qdbev-guard/1", "passed": true, "asked_int8": 2, "ran_int8": 0,
"folded": 1, "allowed": {"onnxruntime-emulates-int8": 1}, "fell_back": [], "macs": {"float32": 12, "folded": 4},
"time_ms": {"float32": 0.008}, "unused_allowances": [], "nodes": [
{"node": "stem/Conv", "op": "Conv", "macs": 12, "ran": "float32", "layers": ["conv"],
 "allowed": "onnxruntime-emulates-int8"},
{"node": "head/MatMul", "op": "MatMul", "macs": 4, "ran": "folded", "layers": [], "allowed": ""}]})json";

inline constexpr const char* kParity = R"json({"schema": "qdbev-engine-parity/1", "passed": true,
"frames_are": "two scenes of a synthetic nuScenes", "arithmetic": "fp32", "reference": "ONNX Runtime on the file",
"frames": 4, "resets": ["first frame", "", "new scene", ""],
"same_state": {"outputs_relative": {"bev_embed": 0.0, "outputs_classes": 1e-07}, "boxes": {"center_m": 0.25},
 "detections": 1.0},
"own_state": {"detections": 0.5}, "failures": []})json";

// FILES stands for the list of files.
inline constexpr const char* kManifest = R"json({"schema": "qdbev-bundle/1", "tool": "qdbev-deploy 0.1.0",
"created": "2026-01-01T00:00:00+00:00", "backend": "onnxruntime", "engine_file": "model.onnx", "extra_files": [],
"machine": "x86_64", "versions": {"onnxruntime": "1.31.1"}, "gpu": null,
"build": {"command": "qdbev-deploy build --onnx student.onnx --int8 --backend onnxruntime -o student.qdbev",
 "options": {"precision": "int8", "threads": null, "fused": false, "version_compatible": false,
  "hardware_compatible": false},
 "opens_with": {"provider": "CPUExecutionProvider"}, "notes": ["runs on CPUExecutionProvider"]},
"precision": {"precision": "int8", "emulated": true, "passed": true, "asked_int8": 2, "ran_int8": 0, "folded": 1,
 "allowed": {"onnxruntime-emulates-int8": 1}, "fell_back": [], "macs": {"float32": 12, "folded": 4},
 "time_ms": {"float32": 0.008}, "unused_allowances": []},
"parity": {"passed": true, "frames_are": "two scenes of a synthetic nuScenes", "frames": 4, "resets": 2,
 "reference": "ONNX Runtime on the file", "tolerance": "fp32",
 "outputs_relative": {"bev_embed": 0.0, "outputs_classes": 1e-07}, "box_center_m": 0.25, "detections": 1.0,
 "detections_own_state": 0.5},
"provenance": {"onnx": {"name": "student.onnx"}},
"files": FILES})json";

// Texts of files by name, without the manifest.
using Files = std::map<std::string, std::string>;

struct Documents {
    std::string manifest = kManifest;
    Files files = {{"contract.json", kContract}, {"layers.json", kLayers}, {"guard.json", kGuard},
        {"parity.json", kParity}, {"model.onnx", "a network"}};
};

// Puts `to` in the place of `from`, which stands there once.
inline void replace(std::string& text, const std::string& from, const std::string& to)
{
    const std::size_t at = text.find(from);
    if (at == std::string::npos || text.find(from, at + 1) != std::string::npos) {
        throw std::runtime_error("the test's text '" + from + "' does not stand once in its document");
    }
    text.replace(at, from.size(), to);
}

inline void write_file(const std::filesystem::path& path, const std::string& text)
{
    std::ofstream file(path, std::ios::binary);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    if (!file.flush()) {
        throw std::runtime_error("the test cannot write " + path.string());
    }
}

// The manifest with the files' sizes and sums in the place of FILES, where a test left it.
inline std::string sealed(const Documents& documents)
{
    std::string listed;
    for (const auto& [name, text] : documents.files) {
        listed += (listed.empty() ? "{\"" : ", \"") + name + "\": {\"bytes\": " + std::to_string(text.size())
            + ", \"sha256\": \"" + qdbev::runtime::sha256_of(text) + "\"}";
    }
    std::string manifest = documents.manifest;
    if (manifest.find("FILES") != std::string::npos) {
        replace(manifest, "FILES", listed + "}");
    }
    return manifest;
}

inline void write(const std::filesystem::path& folder, const Documents& documents = {})
{
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    for (const auto& [name, text] : documents.files) {
        write_file(folder / name, text);
    }
    write_file(folder / "manifest.json", sealed(documents));
}

// A folder of its own under the system's temporary ones, removed at the end.
class TemporaryFolder {
public:
    TemporaryFolder()
    {
        std::string name = (std::filesystem::temp_directory_path() / "qdbev_runtime_XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) {
            throw std::runtime_error("the test cannot make a temporary folder");
        }
        path_ = name;
    }
    ~TemporaryFolder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    const std::filesystem::path& path() const noexcept { return path_; }

private:
    std::filesystem::path path_;
};

}  // namespace small_bundle
