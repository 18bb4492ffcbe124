// The backend on ONNX Runtime: the bundle's ONNX file as it is.
#include "backend.h"

#include "onnxruntime/stream.h"

namespace qdbev::runtime {
namespace {

class OnnxRuntimeBackend final : public Backend {
public:
    OnnxRuntimeBackend(const Bundle& bundle, const EngineOptions& options) : model_(bundle, options) {}

    std::unique_ptr<Stream> stream(const SessionOptions& options) override
    {
        return std::make_unique<OrtStream>(model_, options);
    }

private:
    OrtModel model_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const Bundle& bundle, const EngineOptions& options)
{
    return std::make_unique<OnnxRuntimeBackend>(bundle, options);
}

}  // namespace qdbev::runtime
