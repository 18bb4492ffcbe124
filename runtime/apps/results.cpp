#include "results.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "allocations.h"
#include "qdbev_runtime/version.h"

namespace qdbev::apps {

using runtime::Box;
using runtime::Engine;
using runtime::Times;

namespace {

double percentile(std::vector<double> sorted, double share)
{
    std::sort(sorted.begin(), sorted.end());
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
    return sorted[rank == 0 ? 0 : rank - 1];
}

using Stage = double Times::*;
constexpr struct {
    const char* name;
    Stage stage;
} kStages[] = {{"prepare", &Times::prepare}, {"upload", &Times::upload}, {"compute", &Times::compute},
    {"download", &Times::download}, {"decode", &Times::decode}, {"total", &Times::total}};

std::vector<double> column(const std::vector<Times>& times, Stage stage)
{
    std::vector<double> values;
    values.reserve(times.size());
    for (const Times& frame : times) {
        if (frame.*stage >= 0) {
            values.push_back(frame.*stage);
        }
    }
    return values;
}

std::string quoted(const std::string& text)
{
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
            out += escaped;
        } else {
            out += c;
        }
    }
    return out + "\"";
}

// Shortest text that reads back as the same float; %.9g does for any.
std::string numbers(const float* values, std::size_t count)
{
    std::string out = "[";
    char text[32];
    for (std::size_t i = 0; i < count; ++i) {
        std::snprintf(text, sizeof text, "%s%.9g", i == 0 ? "" : ", ", static_cast<double>(values[i]));
        out += text;
    }
    return out + "]";
}

std::string numbers(const std::vector<double>& values)
{
    std::string out = "[";
    char text[32];
    for (std::size_t i = 0; i < values.size(); ++i) {
        std::snprintf(text, sizeof text, "%s%.6f", i == 0 ? "" : ", ", values[i]);
        out += text;
    }
    return out + "]";
}

std::string json_of(const Box& box)
{
    char rest[128];
    std::snprintf(rest, sizeof rest, "\"yaw\": %.9g, \"score\": %.9g, \"label\": %d", static_cast<double>(box.yaw),
        static_cast<double>(box.score), box.label);
    return "{\"center\": " + numbers(box.center.data(), 3) + ", \"size\": " + numbers(box.size.data(), 3)
        + ", \"velocity\": " + numbers(box.velocity.data(), 2) + ", " + rest + "}";
}

}  // namespace

std::string document(const Engine& engine, const Samples& samples, const Arguments& arguments, const Measured& measured)
{
    std::string out = "{\"schema\": \"qdbev-stream/1\", \"version\": " + quoted(QDBEV_RUNTIME_VERSION)
        + ",\n \"bundle\": " + quoted(arguments.bundle) + ", \"variant\": " + quoted(engine.contract().variant)
        + ", \"backend\": " + quoted(engine.backend()) + ", \"precision\": " + quoted(engine.precision())
        + ",\n \"data\": " + quoted(samples.source) + ", \"options\": {\"cuda_graph\": "
        + (arguments.session.cuda_graph ? "true" : "false") + ", \"wait\": "
        + (arguments.session.wait == runtime::Wait::spin ? "\"spin\"" : "\"block\"") + ", \"timed\": "
        + (arguments.session.timed ? "true" : "false") + ", \"repeats\": " + std::to_string(arguments.repeats)
        + ", \"warmup\": " + std::to_string(arguments.warmup) + "},\n \"milliseconds\": {";
    const char* comma = "";
    for (const auto& [name, stage] : kStages) {
        if (const std::vector<double> values = column(measured.times, stage); !values.empty()) {
            out += comma + quoted(name) + ": " + numbers(values);
            comma = ",\n  ";
        }
    }
    out += "},\n \"allocations\": ";
    out += can_count_allocations()
        ? "{\"frames\": " + std::to_string(measured.times.size()) + ", \"thread\": "
            + std::to_string(measured.thread_allocations) + ", \"process\": "
            + std::to_string(measured.process_allocations) + "}"
        : "null";
    out += ",\n \"frames\": [";
    for (std::size_t i = 0; i < measured.frames.size(); ++i) {
        const FrameResult& frame = measured.frames[i];
        out += std::string(i == 0 ? "" : ",") + "\n  {\"scene\": " + quoted(samples.frames[i].scene)
            + ", \"timestamp_us\": " + std::to_string(samples.frames[i].ego.timestamp_us)
            + ", \"reset_reason\": " + quoted(frame.reset_reason) + ", \"boxes\": [";
        for (std::size_t j = 0; j < frame.boxes.size(); ++j) {
            out += (j == 0 ? "\n   " : ",\n   ") + json_of(frame.boxes[j]);
        }
        out += "]}";
    }
    return out + "]}\n";
}

void print_summary(const Engine& engine, const Samples& samples, const Measured& measured)
{
    std::size_t boxes = 0, resets = 0;
    for (const FrameResult& frame : measured.frames) {
        boxes += frame.boxes.size();
        resets += frame.reset_reason.empty() ? 0 : 1;
    }
    std::printf("%s on %s (%s): %zu frames of %s, %zu boxes; the state was dropped %zu times\n",
        engine.contract().variant.c_str(), engine.backend().c_str(), engine.precision().c_str(),
        measured.frames.size(), samples.source.c_str(), boxes, resets);
    std::printf("%-9s %10s %10s %10s %10s   ms, %zu frames\n", "", "p50", "p99", "p99.9", "max", measured.times.size());
    for (const auto& [name, stage] : kStages) {
        if (const std::vector<double> values = column(measured.times, stage); !values.empty()) {
            std::printf("%-9s %10.3f %10.3f %10.3f %10.3f\n", name, percentile(values, 0.5), percentile(values, 0.99),
                percentile(values, 0.999), percentile(values, 1));
        }
    }
    if (can_count_allocations()) {
        const auto frames = static_cast<double>(measured.times.size());
        std::printf("allocations a frame: %.1f by the calling thread, %.1f by the process\n",
            static_cast<double>(measured.thread_allocations) / frames,
            static_cast<double>(measured.process_allocations) / frames);
    }
}

void write_text(const std::string& path, const std::string& text)
{
    if (path == "-") {
        std::fwrite(text.data(), 1, text.size(), stdout);
        return;
    }
    const std::string partial = path + ".partial";
    std::FILE* file = std::fopen(partial.c_str(), "wb");
    bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
    written = file != nullptr && std::fclose(file) == 0 && written;
    if (!written || std::rename(partial.c_str(), path.c_str()) != 0) {
        const std::string why = std::strerror(errno);
        std::remove(partial.c_str());
        throw runtime::Error(runtime::Code::bad_input, path + " cannot be written: " + why, "a place for the results",
            "pass another --json");
    }
}

}  // namespace qdbev::apps
