// A bundle whose files were verified; nothing in it was loaded or executed.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "qdbev_runtime/contract.h"

namespace qdbev::runtime {

struct Gpu {
    std::string name;
    std::array<int32_t, 2> compute_capability{};
};

struct Bundle {
    std::string path;
    Contract contract;
    std::string backend;                   // onnxruntime or tensorrt
    std::string precision;                 // as people are told it
    std::string engine_file;               // its path
    std::vector<std::string> extra_files;  // their paths: the plugin library
    std::string build_command;             // that makes it again
    std::string machine;                   // the processor it was built on; empty: not stated
    std::optional<Gpu> gpu;                // the one it is tied to
    std::string tensorrt_version;          // that wrote the plan; empty: none did
    bool version_compatible = false;
    bool hardware_compatible = false;
    std::optional<int32_t> dla_core;  // TensorRT: the one that the plan uses
    bool fused = false;        // ONNX Runtime may fuse Q/DQ
    int32_t threads = 0;       // of an operator; 0: not stated
    std::string provider;      // of ONNX Runtime

    std::map<std::string, std::string> sha256;  // of each file that was verified, by its path

    // Verifies it. Throws Error (bad_input).
    static Bundle open(const std::string& path);

    // The bytes of a file, which are those that were verified. Throws Error (bad_input).
    std::vector<char> read(const std::string& path_of_file) const;
};

}  // namespace qdbev::runtime
