#include "onnxruntime/api.h"

#include <cstdlib>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime {
namespace {

constexpr const char* kTelemetry = "ORT_DISABLE_TELEMETRY";

Library open_library(const std::string& asked)
{
    // Newer releases gather data about their users, in a database in the home folder, unless they are told not to before
    // they begin; the API's own call comes too late. A program that sets the variable itself, to 0 or to 1, is left alone.
    if (std::getenv(kTelemetry) == nullptr) {
        setenv(kTelemetry, "1", 0);
    }
    return Library::open(
        library_names(asked, "QDBEV_ONNXRUNTIME_LIBRARY", {"libonnxruntime.so.1", "libonnxruntime.so"}), kOrtNeeded,
        kOrtNextStep);
}

}  // namespace

OrtLibrary::OrtLibrary(const std::string& asked) : library_(open_library(asked))
{
    const OrtApiBase* base = library_.function<const OrtApiBase*()>("OrtGetApiBase")();
    description_ = std::string(base->GetVersionString()) + ", from " + library_.path();
    api_ = base->GetApi(kOrtApi);
    if (api_ == nullptr) {
        throw Error(Code::missing, "ONNX Runtime " + description_, kOrtNeeded, kOrtNextStep);
    }
}

std::string OrtLibrary::failure(OrtStatus* status) const
{
    std::string line;
    if (status != nullptr) {
        const Owned<OrtStatus> owned(status, {api_->ReleaseStatus});
        on_one_line(api_->GetErrorMessage(status), [&](std::string_view part) { line += part; });
        if (line.empty()) {
            line = "no reason was given";
        }
    }
    return line;
}

void OrtLibrary::check(OrtStatus* status) const
{
    if (const std::string reason = failure(status); !reason.empty()) {
        throw Error(Code::failed, "ONNX Runtime " + description_ + ": " + reason, "a call that succeeds",
            "see that the machine has memory left; else try another " + std::string(kOrtNeeded));
    }
}

}  // namespace qdbev::runtime
