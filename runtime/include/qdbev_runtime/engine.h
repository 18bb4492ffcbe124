// A bundle opened as an engine, and a sequence of frames run through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "qdbev_runtime/contract.h"
#include "qdbev_runtime/export.h"
#include "qdbev_runtime/frame.h"
#include "qdbev_runtime/status.h"

namespace qdbev::runtime {

enum class Severity : int32_t { error = 0, warning = 1, info = 2 };

using Logger = void (*)(Severity severity, const char* sentence, void* user);

struct EngineOptions {
    // The library of ONNX Runtime or TensorRT to load. Empty: QDBEV_ONNXRUNTIME_LIBRARY or QDBEV_TENSORRT_LIBRARY, then
    // the names under which the system knows it.
    std::string backend_library;
    int32_t threads = 0;  // of an operator under ONNX Runtime; 0: as the bundle was built
    Logger logger = nullptr;  // nullptr: warnings and errors go to stderr; may be called from any thread
    void* logger_user = nullptr;
};

enum class Wait : int32_t { block = 0, spin = 1 };

struct SessionOptions {
    bool cuda_graph = false;  // TensorRT: each frame is launched as one captured graph
    Wait wait = Wait::block;  // spin answers sooner and costs a core
    bool timed = false;       // upload, compute and download are told apart
    double max_gap_s = 0;     // 0: as the contract says
    float min_score = 0;      // 0 to 1: boxes below are left out
};

class Session;

// A loaded engine. Sessions of one engine share its weights and may run in threads of their own (under ONNX Runtime those
// that spin share one copy, those that block another). What was moved away may only be assigned to or destroyed.
class QDBEV_RUNTIME_EXPORT Engine {
public:
    // On TensorRT the first GPU that CUDA shows is used. On ONNX Runtime the environment's ORT_DISABLE_TELEMETRY is set
    // to 1 where it is not set: open the first engine before threads read the environment, or set it yourself.
    //
    // Verifies the bundle (every file against its sha256, the contract, the reports of precision and parity), then
    // loads it. Throws Error; nothing of a bundle that does not hold is loaded.
    static Engine open(const std::string& bundle, const EngineOptions& options = {});

    Engine(Engine&&) noexcept;
    Engine& operator=(Engine&&) noexcept;
    ~Engine();

    const Contract& contract() const noexcept;
    const std::string& backend() const noexcept;    // "onnxruntime" or "tensorrt",
    const std::string& precision() const noexcept;  // and what is proved: "int8, emulated in floating point", say

    // Allocates everything that its frames will need. Throws Error.
    Session session(const SessionOptions& options = {}) const;

private:
    friend class Session;  // which keeps it alive
    struct Impl;
    explicit Engine(std::shared_ptr<const Impl> impl) noexcept;
    std::shared_ptr<const Impl> impl_;
};

// One sequence of frames. It keeps its engine alive. Not for two threads at once.
//
// The past is forgotten on the first frame, where `scene` changes, where more than max_gap_s passed, and after reset().
// A frame that is refused, or fails, leaves the session as it was. Outputs that are no numbers make a frame fail; after
// two such frames in a row the past is forgotten, too.
class QDBEV_RUNTIME_EXPORT Session {
public:
    Session(Session&&) noexcept;
    Session& operator=(Session&&) noexcept;
    ~Session();

    // Runs one frame. Neither throws nor allocates; of the backend's own doing docs/runtime.md tells.
    Status step(const Frame& frame, StepOutput& output) noexcept;

    void reset() noexcept;

    // The session's own image input: what is written there, and passed as ImageTensor, is not copied. nullptr where it
    // has none in such memory.
    void* image_buffer(Memory memory = Memory::host) noexcept;

    // Of the last step: class logits [layers, 1, queries, 10] and box codes of the same shape, in host memory.
    const float* classes() const noexcept;
    const float* coords() const noexcept;

    // Copies bev_embed of the last step, of outputs[0].bytes() bytes.
    Status read_state(void* out, std::size_t bytes) noexcept;

    // TensorRT: the cudaStream_t on which frames run; work queued there comes before the next frame. Else nullptr.
    void* cuda_stream() const noexcept;

private:
    friend class Engine;
    struct Impl;
    explicit Session(std::unique_ptr<Impl> impl) noexcept;
    std::unique_ptr<Impl> impl_;
};

}  // namespace qdbev::runtime
