#include "arguments.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <vector>

namespace qdbev::apps {

const char* const kHelp =
    "usage: qdbev-stream BUNDLE --samples DIR [options]\n"
    "\n"
    "Run recorded frames through a bundle (NAME.qdbev), frame by frame with their state, as a car would.\n"
    "\n"
    "  --samples DIR          frames that `qdbev-deploy bench BUNDLE --save-samples DIR` wrote\n"
    "  --json FILE            write boxes, times and allocations there (- for stdout)\n"
    "  --repeats N            go through the frames N times (1); the first time gives the boxes\n"
    "  --warmup N             frames before those that are measured (10)\n"
    "  --cuda-graph           TensorRT: launch each frame as one captured graph\n"
    "  --spin                 wait for a frame without sleeping\n"
    "  --timed                tell upload, compute and download apart\n"
    "  --min-score S          leave out boxes below (0)\n"
    "  --threads N            of an operator under ONNX Runtime (as the bundle was built)\n"
    "  --library FILE         the library of ONNX Runtime or TensorRT (default: as the system knows it)\n"
    "  --version              print the version\n"
    "\n"
    "exit codes: 0 done, 2 usage, 3 bad input, 4 something missing on this machine, 5 a failure while running\n"
    "\n"
    "example:\n"
    "  qdbev-deploy bench student.qdbev --save-samples drive\n"
    "  qdbev-stream student.qdbev --samples drive --repeats 20 --json stream.json\n";

namespace {

[[noreturn]] void misuse(const std::string& found, const std::string& needed)
{
    throw runtime::Error(runtime::Code::usage, found, needed, "qdbev-stream --help");
}

double number(const std::string& flag, const char* text, double low, double high)
{
    const char* const end = text + std::strlen(text);
    double value = 0;
    const auto [after, error] = std::from_chars(text, end, value);
    if (error != std::errc() || after != end || !(value >= low && value <= high)) {
        char range[64];
        std::snprintf(range, sizeof range, "a number from %g to %g", low, high);
        misuse(flag + " " + text, range);
    }
    return value;
}

int whole(const std::string& flag, const char* text, int low, int high)
{
    const double value = number(flag, text, low, high);
    if (value != std::floor(value)) {
        misuse(flag + " " + text, "a whole number");
    }
    return static_cast<int>(value);
}

}  // namespace

Arguments parse(int count, char** words)
{
    Arguments arguments;
    const std::vector<std::string> given(words + 1, words + count);
    for (std::size_t i = 0; i < given.size(); ++i) {
        const std::string& word = given[i];
        const auto value = [&]() -> const char* {
            if (i + 1 == given.size() || given[i + 1].empty()) {
                misuse(word + " without a value", "one");
            }
            return given[++i].c_str();
        };
        if (word == "--samples") {
            arguments.samples = value();
        } else if (word == "--json") {
            arguments.json = value();
        } else if (word == "--repeats") {
            arguments.repeats = whole(word, value(), 1, 1'000'000);
        } else if (word == "--warmup") {
            arguments.warmup = whole(word, value(), 0, 1'000'000);
        } else if (word == "--cuda-graph") {
            arguments.session.cuda_graph = true;
        } else if (word == "--spin") {
            arguments.session.wait = runtime::Wait::spin;
        } else if (word == "--timed") {
            arguments.session.timed = true;
        } else if (word == "--min-score") {
            arguments.session.min_score = static_cast<float>(number(word, value(), 0, 1));
        } else if (word == "--threads") {
            arguments.engine.threads = whole(word, value(), 1, 1024);
        } else if (word == "--library") {
            arguments.engine.backend_library = value();
        } else if (word.rfind("-", 0) == 0 || !arguments.bundle.empty()) {
            misuse("'" + word + "'", "one bundle and the options of the help");
        } else {
            arguments.bundle = word;
        }
    }
    if (arguments.bundle.empty() || arguments.samples.empty()) {
        misuse(arguments.bundle.empty() ? "no bundle" : "no --samples", "a bundle and recorded frames");
    }
    return arguments;
}

}  // namespace qdbev::apps
