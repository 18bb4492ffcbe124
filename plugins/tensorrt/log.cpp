#include "log.h"

#include <atomic>
#include <cstdio>
#include <string>

#include <dlfcn.h>

namespace qdbev::trt {

namespace {

std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};
std::atomic<nvinfer1::ILogger*> g_logger{nullptr};

// The logger of the process's TensorRT, which the ONNX parser's calls need: they come from outside any engine, where the
// finder knows none. By name, because this library does not link TensorRT; RTLD_NOLOAD, because only the TensorRT that
// is at work is meant. The test double has no version and no library.
nvinfer1::ILogger* logger_of_process()
{
#ifdef NV_TENSORRT_MAJOR
    const std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
    if (void* library = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD)) {
        using GetLogger = nvinfer1::ILogger* (*)();
        auto* get_logger = reinterpret_cast<GetLogger>(dlsym(library, "getLogger"));
        nvinfer1::ILogger* logger = get_logger != nullptr ? get_logger() : nullptr;
        dlclose(library);  // gives back the reference taken here; TensorRT stays
        return logger;
    }
#endif
    return nullptr;
}

nvinfer1::ILogger* find_logger() noexcept
{
    try {  // neither findLogger nor getLogger promises not to throw
        nvinfer1::ILoggerFinder* finder = g_finder;
        if (nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr) {
            return logger;
        }
        if (nvinfer1::ILogger* logger = g_logger) {
            return logger;
        }
        return logger_of_process();
    } catch (...) {
        return nullptr;
    }
}

}  // namespace

void set_logger(nvinfer1::ILogger* logger) noexcept
{
    g_logger = logger;
}

void log_error(const char* sentence) noexcept
{
    if (nvinfer1::ILogger* logger = find_logger()) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, sentence);
    } else {
        std::fprintf(stderr, "qdbev: %s\n", sentence);
    }
}

}  // namespace qdbev::trt

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept
{
    qdbev::trt::g_finder = finder;
}
