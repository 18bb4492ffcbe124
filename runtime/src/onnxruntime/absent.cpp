// In the backend's place where ONNX Runtime's header was not there to build it.
#include "backend.h"

namespace qdbev::runtime {

std::unique_ptr<Backend> open_onnxruntime(const Bundle& bundle, const EngineOptions& /*options*/)
{
    throw Error(Code::missing, bundle.path + " runs on ONNX Runtime, and this runtime was built without",
        "a runtime built with onnxruntime_c_api.h at hand",
        "install libonnxruntime-dev, or unpack a release of ONNX Runtime and set ONNXRUNTIME_ROOT, then build again");
}

}  // namespace qdbev::runtime
