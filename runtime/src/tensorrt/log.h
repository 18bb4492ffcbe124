// What TensorRT says: handed to the program's logger, and kept for the failure that it explains.
#pragma once

#include <mutex>
#include <string>

#include "api.h"
#include "qdbev_runtime/engine.h"
#include "text.h"

namespace qdbev::runtime::trt {

class Log final : public nvinfer1::ILogger {
public:
    static constexpr std::size_t kKept = 255;

    void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override;

    // The first error since the last call, else the last warning; empty where there was neither.
    Text<kKept> take() noexcept;

    // `what`, with what TensorRT said of it.
    std::string explained(std::string what);

private:
    friend class EngineLog;

    // Held during the program's logger: when an engine is gone, no thread is in its logger any more. Recursive, since
    // that logger may ask something of TensorRT.
    std::recursive_mutex mutex_;
    Logger logger_ = nullptr;
    void* user_ = nullptr;
    bool error_kept_ = false;
    Text<kKept> kept_;
    bool heard_ = false;  // whether it is an engine's; the pool's mutex is for this one
};

// A Log for as long as an engine lives. Logs are never freed, but used again: TensorRT keeps the first logger that it
// is given until the process ends. One that no engine uses hands errors and warnings to stderr.
class EngineLog {
public:
    EngineLog(Logger logger, void* user);
    ~EngineLog();
    EngineLog(const EngineLog&) = delete;
    EngineLog& operator=(const EngineLog&) = delete;

    Log& operator*() const noexcept { return *log_; }
    Log* operator->() const noexcept { return log_; }

private:
    Log* log_ = nullptr;
};

}  // namespace qdbev::runtime::trt
