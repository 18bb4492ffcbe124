#include "onnxruntime/model.h"

#include <cstdio>
#include <filesystem>

#include "onnxruntime/tensors.h"

namespace qdbev::runtime {
namespace {

constexpr int32_t kMaxThreads = 1024;  // more is a slip of the finger, and ONNX Runtime tries

std::string rebuild(const Bundle& bundle)
{
    return "copy the bundle again from where it was built, or build it again: " + bundle.build_command;
}

// What was verified, with what stands for its empty fields.
Bundle completed(Bundle bundle, const EngineOptions& options)
{
    if (bundle.provider.empty()) {
        bundle.provider = kCpuProvider;
    }
    if (options.threads != 0) {
        bundle.threads = options.threads;
    }
    if (bundle.threads < 0 || bundle.threads > kMaxThreads) {
        throw Error(Code::usage, std::to_string(bundle.threads) + " threads of an operator",
            "1 to " + std::to_string(kMaxThreads), "leave EngineOptions::threads at 0 for the bundle's own");
    }
    return bundle;
}

// Called by ONNX Runtime, from any of its threads.
void ORT_API_CALL write_log(void* options, OrtLoggingLevel level, const char* /*category*/, const char* /*id*/,
    const char* /*location*/, const char* message)
{
    const auto& to = *static_cast<const EngineOptions*>(options);
    if (to.logger == nullptr) {
        std::fprintf(stderr, "onnxruntime: %s\n", message);
        return;
    }
    try {
        to.logger(level >= ORT_LOGGING_LEVEL_ERROR ? Severity::error : Severity::warning, message, to.logger_user);
    } catch (...) {
        // A log is no reason to end a process, and ONNX Runtime's frames are no place to unwind.
    }
}

}  // namespace

OrtModel::OrtModel(const Bundle& bundle, const EngineOptions& options)
    : bundle_(completed(bundle, options)),
      options_(options),
      ort_(options.backend_library),
      environment_(ort_.make(ort_->ReleaseEnv, ort_->CreateEnv, ORT_LOGGING_LEVEL_ERROR, "qdbev"))
{
    require_provider();
    require_tensors(ort_, session(Wait::block), bundle_.contract, rebuild(bundle_));
}

OrtSession* OrtModel::session(Wait wait)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    Owned<OrtSession>& session = sessions_[wait == Wait::spin ? 1 : 0];
    if (session == nullptr) {
        session = load(wait);
    }
    return session.get();
}

void OrtModel::require_provider() const
{
    const std::string& wanted = bundle_.provider;
    if (wanted != kCpuProvider && wanted != kCudaProvider) {
        throw Error(Code::missing, "the bundle was built for ONNX Runtime's " + wanted,
            std::string(kCpuProvider) + " or " + kCudaProvider + ": the runtime drives no other",
            "build the bundle again: " + bundle_.build_command);
    }
    char** names = nullptr;
    int count = 0;
    ort_.check(ort_->GetAvailableProviders(&names, &count));
    std::string available;
    bool found = false;
    for (int i = 0; i < count; ++i) {
        available += (i == 0 ? "" : ", ") + std::string(names[i]);
        found = found || wanted == names[i];
    }
    ort_.check(ort_->ReleaseAvailableProviders(names, count));
    if (!found) {
        throw Error(Code::missing,
            "the bundle was built for ONNX Runtime's " + wanted + ", and " + ort_.description() + ", has " + available,
            "an ONNX Runtime with " + wanted,
            "install ONNX Runtime's release for GPUs, or build the bundle on this machine: " + bundle_.build_command);
    }
}

Owned<OrtSession> OrtModel::load(Wait wait) const
{
    const Owned<OrtSessionOptions> options = session_options(wait);
    // The bytes that were verified, whatever became of the file since: sessions that spin are made when one is wanted.
    const std::vector<char> model = bundle_.read(bundle_.engine_file);
    OrtSession* session = nullptr;
    const std::string reason =
        ort_.failure(ort_->CreateSessionFromArray(
            environment_.get(), model.data(), model.size(), options.get(), &session));
    if (!reason.empty()) {
        const std::string file = std::filesystem::path(bundle_.engine_file).filename().string();
        throw Error(Code::bad_input, "ONNX Runtime cannot load " + file + ": " + reason, "the model as it was built",
            rebuild(bundle_));
    }
    return Owned<OrtSession>(session, {ort_->ReleaseSession});
}

// As the Python package has them: parity was proved under these.
Owned<OrtSessionOptions> OrtModel::session_options(Wait wait) const
{
    Owned<OrtSessionOptions> options = ort_.make(ort_->ReleaseSessionOptions, ort_->CreateSessionOptions);
    ort_.check(ort_->SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_ERROR));
    // The session's log and not the environment's: a process has one environment, and that is whose who made it first.
    ort_.check(ort_->SetUserLoggingFunction(options.get(), write_log, const_cast<EngineOptions*>(&options_)));
    if (bundle_.threads > 0) {
        ort_.check(ort_->SetIntraOpNumThreads(options.get(), bundle_.threads));
    }
    ort_.check(ort_->AddSessionConfigEntry(
        options.get(), "session.intra_op.allow_spinning", wait == Wait::spin ? "1" : "0"));
    if (!bundle_.fused) {
        // Else ONNX Runtime fuses Q/DQ on its own account and rounds biases to int32, which TensorRT does not.
        ort_.check(ort_->AddSessionConfigEntry(options.get(), "session.disable_quant_qdq", "1"));
    }
    if (on_cuda()) {
        use_cuda(options.get());
    }
    return options;
}

void OrtModel::use_cuda(OrtSessionOptions* options) const
{
    const auto cuda = ort_.make(ort_->ReleaseCUDAProviderOptions, ort_->CreateCUDAProviderOptions);
    const std::string reason =
        ort_.failure(ort_->SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()));
    if (!reason.empty()) {
        throw Error(Code::missing, "ONNX Runtime's CUDAExecutionProvider does not load: " + reason,
            "a GPU, and the CUDA and cuDNN that ONNX Runtime " + ort_.description() + ", was made for",
            "install them, or build the bundle on this machine: " + bundle_.build_command);
    }
}

}  // namespace qdbev::runtime
