// A whole file in memory.
#pragma once

#include <string>
#include <vector>

namespace qdbev::runtime::trt {

// Throws Error (bad_input).
std::vector<char> read_file(const std::string& path);

}  // namespace qdbev::runtime::trt
