#include "log.h"

#include <cstdio>
#include <memory>
#include <string_view>
#include <vector>

namespace qdbev::runtime::trt {

namespace {

struct Pool {
    std::mutex mutex;
    std::vector<std::unique_ptr<Log>> all;
};

Pool& pool()
{
    static Pool* const made = new Pool;  // outlives whatever TensorRT does when the process ends
    return *made;
}

std::string_view without_end(std::string_view text) noexcept
{
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '.')) {
        text.remove_suffix(1);
    }
    return text;
}

}  // namespace

void Log::log(Severity severity, const nvinfer1::AsciiChar* message) noexcept
{
    if (message == nullptr || severity == Severity::kVERBOSE) {
        return;
    }
    const bool error = severity == Severity::kINTERNAL_ERROR || severity == Severity::kERROR;
    const bool warning = severity == Severity::kWARNING;
    try {
        const std::lock_guard<std::recursive_mutex> lock(mutex_);
        if ((error || warning) && !error_kept_) {
            kept_ = {};
            kept_.add(without_end(message));
            error_kept_ = error;
        }
        if (logger_ != nullptr) {
            logger_(error ? runtime::Severity::error : warning ? runtime::Severity::warning : runtime::Severity::info,
                message, user_);
        } else if (error || warning) {
            const std::string_view text = without_end(message);
            std::fprintf(stderr, "qdbev: TensorRT: %.*s\n", static_cast<int>(text.size()), text.data());
        }
    } catch (...) {  // the program's logger threw; nothing may leave this function, and there is nobody to tell
    }
}

Text<Log::kKept> Log::take() noexcept
{
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    const Text<kKept> taken = kept_;
    kept_ = {};
    error_kept_ = false;
    return taken;
}

std::string Log::explained(std::string what)
{
    const Text<kKept> said = take();
    return *said.c_str() == '\0' ? what : what + ": " + said.c_str();
}

EngineLog::EngineLog(Logger logger, void* user)
{
    {
        const std::lock_guard<std::mutex> lock(pool().mutex);
        for (const std::unique_ptr<Log>& log : pool().all) {
            if (!log->heard_) {
                log_ = log.get();
            }
        }
        if (log_ == nullptr) {
            log_ = pool().all.emplace_back(std::make_unique<Log>()).get();
        }
        log_->heard_ = true;
    }
    const std::lock_guard<std::recursive_mutex> lock(log_->mutex_);
    log_->logger_ = logger;
    log_->user_ = user;
    static_cast<void>(log_->take());
}

EngineLog::~EngineLog()
{
    {
        const std::lock_guard<std::recursive_mutex> lock(log_->mutex_);
        log_->logger_ = nullptr;
        log_->user_ = nullptr;
    }
    const std::lock_guard<std::mutex> lock(pool().mutex);
    log_->heard_ = false;
}

}  // namespace qdbev::runtime::trt
