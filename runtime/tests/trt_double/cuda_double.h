// TEST DOUBLE. What a test asks of the CUDA double, and tells it; and how the TensorRT double launches its network.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

namespace cuda_double {

// What the program finds; a test writes here before it asks.
struct Machine {
    int driver = 12040;
    cudaError_t counting = cudaSuccess;  // what cudaGetDeviceCount says
    int devices = 1;
    std::string name = "Orin";
    int major = 8, minor = 7;
    int busy_queries = 3;  // so often a query finds an event not ready
};
Machine& machine();

// What was made and not yet freed.
struct Live {
    int streams = 0, events = 0, graphs = 0, executables = 0, device = 0, pinned = 0;
    int all() const { return streams + events + graphs + executables + device + pinned; }
};
Live live();

// The call of `function` after `after` further ones fails with `error`, once.
void fail(const std::string& function, int after = 0, cudaError_t error = cudaErrorMemoryAllocation);
// The operation after `after` further ones fails while it is executed; what waits for it hears of it.
void fail_execution(int after = 0, cudaError_t error = cudaErrorIllegalAddress);
void fail_nothing();

int calls(const std::string& function);  // since the last forget()
cudaStreamCaptureMode last_capture_mode();
unsigned int last_event_flags();

// Operations in the order of their execution: "H2D 48", "D2D 48", "D2H 40", "clear 48", "event", kernels' names.
std::vector<std::string> executed();
std::vector<std::string> misused();  // what real CUDA would answer with undefined behaviour
void forget();                       // calls, operations, misuse

// A kernel that takes `ms` of the double's time. `work` runs when the stream comes to it.
cudaError_t launch(cudaStream_t stream, const std::string& name, double ms, std::function<void()> work);
bool is_capturing(cudaStream_t stream);
// Notes a misuse unless the bytes lie within one living allocation of the device.
void require_device(const void* memory, size_t bytes);

}  // namespace cuda_double
