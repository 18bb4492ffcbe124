// What qdbev-stream measured, as a JSON document and as a table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "samples.h"

namespace qdbev::apps {

struct FrameResult {
    std::vector<runtime::Box> boxes;
    std::string reset_reason;  // empty where the state was carried over
};

struct Measured {
    std::vector<FrameResult> frames;  // of the first time through
    std::vector<runtime::Times> times;         // of every measured frame, in order
    int64_t thread_allocations = 0, process_allocations = 0;
};

// Schema qdbev-stream/1.
std::string document(const runtime::Engine& engine, const Samples& samples, const Arguments& arguments,
    const Measured& measured);

void print_summary(const runtime::Engine& engine, const Samples& samples, const Measured& measured);

// A file appears whole or not at all; "-" is stdout. Throws runtime::Error.
void write_text(const std::string& path, const std::string& text);

}  // namespace qdbev::apps
