// Whether this machine can run an engine, said before anything of it is loaded. Each throws Error (missing) where not.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "bundle.h"

namespace qdbev::runtime::trt {

using Version = std::array<int32_t, 3>;

// The numbers that a version begins with: 10.13.2.6 is 10, 13, 2; 8.6 is 8, 6, 0.
Version version_of(const std::string& text) noexcept;
// As TensorRT packs them: 8601 is 8.6.1, 101302 is 10.13.2.
Version version_of(int32_t packed) noexcept;
std::string text_of(const Version& version);

// The plugin library and the plan are machine code of one kind of processor.
void require_processor(const Bundle& bundle, const std::string& here);
void require_gpu(const Bundle& bundle, const std::string& name, const std::array<int32_t, 2>& compute_capability);

// The major version of TensorRT's headers, with which this runtime was built, is the engine's.
void require_major(const Bundle& bundle, int32_t major);
// The library at `path` is one whose interface is known, and can read the plan.
void require_release(const std::string& path, const Version& here, int32_t major);
void require_version(const Bundle& bundle, const Version& here);

}  // namespace qdbev::runtime::trt
