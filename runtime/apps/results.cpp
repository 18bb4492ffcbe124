#include "results.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "allocations.h"
#include "qdbev_runtime/version.h"

namespace qdbev::apps {

using runtime::Box;
using runtime::Engine;
using runtime::Times;

namespace {

// "-" where no interval of 95 % could hold it: `qdbev-deploy bench` counts samples in the same way.
std::string percentile(std::vector<double> sorted, double share)
{
    const double needed = std::ceil(std::log(0.025) / std::log(share));
    if (static_cast<double>(sorted.size()) < needed && share > 0.5) {
        return "-";
    }
    std::sort(sorted.begin(), sorted.end());
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
    char text[32];
    std::snprintf(text, sizeof text, "%.3f", sorted[rank == 0 ? 0 : rank - 1]);
    return text;
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
            char largest[32];
            std::snprintf(largest, sizeof largest, "%.3f", *std::max_element(values.begin(), values.end()));
            std::printf("%-9s %10s %10s %10s %10s\n", name, percentile(values, 0.5).c_str(),
                percentile(values, 0.99).c_str(), percentile(values, 0.999).c_str(), largest);
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
    const auto written = [&text](std::FILE* file) {
        return file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size()
            && std::fflush(file) == 0;
    };
    const auto refuse = [](const std::string& what) {
        const std::string why = std::strerror(errno);
        throw runtime::Error(runtime::Code::bad_input, what + " cannot be written: " + why, "a place for the results",
            "pass another --json");
    };
    if (path == "-") {
        if (!written(stdout)) {
            refuse("stdout");
        }
        return;
    }
    std::error_code ignored;
    const std::string target = std::filesystem::is_symlink(path, ignored)
        ? std::filesystem::weakly_canonical(path, ignored).string() : path;
    if (std::filesystem::exists(target, ignored) && !std::filesystem::is_regular_file(target, ignored)) {
        // A device or a pipe keeps its name.
        const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(target.c_str(), "wb"), &std::fclose);
        if (!written(file.get())) {
            refuse(path);
        }
        return;
    }
    std::string partial = target + ".XXXXXX";
    const int descriptor = mkstemp(partial.data());
    if (descriptor < 0) {
        refuse(path);
    }
    std::FILE* file = fdopen(descriptor, "wb");
    const bool whole = written(file) && fchmod(descriptor, 0644) == 0;
    if ((file != nullptr && std::fclose(file) != 0) || !whole || std::rename(partial.c_str(), target.c_str()) != 0) {
        const int error = errno;
        std::remove(partial.c_str());
        errno = error;
        refuse(path);
    }
}

}  // namespace qdbev::apps
