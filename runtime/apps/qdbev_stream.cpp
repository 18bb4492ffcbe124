// qdbev-stream: recorded frames through a bundle as in the car, its boxes written down and its latency measured.
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <vector>

#include "allocations.h"
#include "arguments.h"
#include "qdbev_runtime/version.h"
#include "results.h"
#include "samples.h"

namespace {

using namespace qdbev::runtime;
using namespace qdbev::apps;

// Every frame of the samples, `repeats` times after the warm-up; ends at the first that is refused or fails.
Status stream(Session& session, const Samples& samples, const Arguments& arguments, Measured& measured)
{
    const std::size_t count = samples.frames.size();
    measured.frames.resize(count);
    measured.times.reserve(count * static_cast<std::size_t>(arguments.repeats));
    std::vector<Frame> frames;
    for (std::size_t i = 0; i < count; ++i) {
        frames.push_back(samples.frame(i));
    }
    StepOutput output;
    for (std::size_t i = 0; i < static_cast<std::size_t>(arguments.warmup); ++i) {
        if (i % count == 0) {
            session.reset();
        }
        if (Status status = session.step(frames[i % count], output); !status.ok()) {
            return status;
        }
    }
    for (int repeat = 0; repeat < arguments.repeats; ++repeat) {
        session.reset();
        for (std::size_t i = 0; i < count; ++i) {
            const Allocations before = allocations_so_far();
            const Status status = session.step(frames[i], output);
            const Allocations after = allocations_so_far();
            if (!status.ok()) {
                return status;
            }
            measured.thread_allocations += after.thread - before.thread;
            measured.process_allocations += after.process - before.process;
            measured.times.push_back(output.times);
            if (repeat == 0) {
                measured.frames[i] = {std::vector<Box>(output.boxes, output.boxes + output.count), output.reset_reason};
            }
        }
    }
    return {};
}

int run(int count, char** words)
{
    for (int i = 1; i < count; ++i) {
        if (std::strcmp(words[i], "--help") == 0 || std::strcmp(words[i], "-h") == 0) {
            std::fputs(kHelp, stdout);
            return 0;
        }
        if (std::strcmp(words[i], "--version") == 0) {
            std::puts("qdbev-stream " QDBEV_RUNTIME_VERSION);
            return 0;
        }
    }
    const Arguments arguments = parse(count, words);
    const Engine engine = Engine::open(arguments.bundle, arguments.engine);
    const Samples samples = read_samples(arguments.samples, engine.contract());
    Session session = engine.session(arguments.session);
    Measured measured;
    if (const Status status = stream(session, samples, arguments, measured); !status.ok()) {
        std::fprintf(stderr, "error: frame %zu of %s: %s\n", measured.times.size() % samples.frames.size(),
            arguments.samples.c_str(), status.message());
        return static_cast<int>(status.code());
    }
    if (!arguments.json.empty()) {
        write_text(arguments.json, document(engine, samples, arguments, measured));
    }
    if (arguments.json != "-") {
        print_summary(engine, samples, measured);
        if (std::fflush(stdout) != 0) {
            return static_cast<int>(Code::bad_input);
        }
    }
    return 0;
}

}  // namespace

int main(int count, char** words)
{
    try {
        return run(count, words);
    } catch (const Error& error) {
        std::fprintf(stderr, "error: %s.\n  needed: %s.\n  next:   %s\n", error.found().c_str(),
            error.needed().c_str(), error.next_step().c_str());
        return static_cast<int>(error.code());
    } catch (const std::bad_alloc&) {
        std::fprintf(stderr, "error: memory ran out\n");
    } catch (const std::exception& failure) {
        std::fprintf(stderr, "error: %s\n", failure.what());
    }
    return static_cast<int>(Code::failed);
}
