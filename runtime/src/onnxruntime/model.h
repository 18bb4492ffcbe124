// A bundle's model as ONNX Runtime loads it: one session for each way of waiting, shared by the streams that wait so.
#pragma once

#include <array>
#include <mutex>

#include "bundle.h"
#include "onnxruntime/api.h"
#include "qdbev_runtime/engine.h"

namespace qdbev::runtime {

class OrtModel {
public:
    // Loads the model as it waits by default, so that what does not load says so here. Throws Error.
    OrtModel(const Bundle& bundle, const EngineOptions& options);

    const OrtLibrary& ort() const noexcept { return ort_; }
    const Contract& contract() const noexcept { return bundle_.contract; }
    bool on_cuda() const noexcept { return bundle_.provider == kCudaProvider; }

    // May be called from several threads. Throws Error.
    OrtSession* session(Wait wait);

private:
    void require_provider() const;
    [[nodiscard]] Owned<OrtSession> load(Wait wait) const;
    [[nodiscard]] Owned<OrtSessionOptions> session_options(Wait wait) const;
    void use_cuda(OrtSessionOptions* options) const;

    const Bundle bundle_;
    const EngineOptions options_;
    const OrtLibrary ort_;
    const Owned<OrtEnv> environment_;
    std::mutex mutex_;  // of the sessions
    std::array<Owned<OrtSession>, 2> sessions_;  // that block, that spin; nullptr: nobody asked yet
};

}  // namespace qdbev::runtime
