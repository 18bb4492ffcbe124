// In place of the TensorRT backend where the library is built without it.
#include "backend.h"

namespace qdbev::runtime {

std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const EngineOptions&)
{
    throw Error(Code::missing, bundle.path + " is for TensorRT, and this runtime was built without it",
        "a runtime with the TensorRT backend",
        "build the runtime where TensorRT's headers (-DTENSORRT_ROOT=DIR) and the CUDA toolkit are");
}

}  // namespace qdbev::runtime
