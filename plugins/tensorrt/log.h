// Sentences into TensorRT's log, and the guard at the ABI.
#pragma once

#include <exception>

#include "NvInferRuntime.h"
#include "qdbev/c_api.h"

namespace qdbev::trt {

// Where sentences go: the logger of the engine at work, through the finder of setLoggerFinder below; else the one
// given at registration; else the process's; else stderr.
void set_logger(nvinfer1::ILogger* logger) noexcept;
void log_error(const char* sentence) noexcept;

// Runs `function`; an exception becomes a sentence in the log and the result `otherwise`.
template <typename Result, typename Function>
Result guarded(Result otherwise, Function&& function) noexcept
{
    try {
        return function();
    } catch (const std::exception& failure) {
        log_error(failure.what());
    } catch (...) {
        log_error("an unknown exception in a qdbev plugin.");
    }
    return otherwise;
}

}  // namespace qdbev::trt

// IPluginRegistry::loadLibrary hands its finder to this, if the library has it.
extern "C" QDBEV_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;
