// A contract's tensors in ONNX Runtime's terms.
#pragma once

#include "onnxruntime/api.h"
#include "qdbev_runtime/contract.h"

namespace qdbev::runtime {

ONNXTensorElementDataType ort_type(DType type) noexcept;

// Throws Error (bad_input) unless the loaded model's inputs and outputs are those of the contract, whatever the file
// says of itself elsewhere.
void require_tensors(const OrtLibrary& ort, const OrtSession* session, const Contract& contract,
    const std::string& next_step);

}  // namespace qdbev::runtime
