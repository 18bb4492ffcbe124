// TEST DOUBLE. Streams that only note what they are given, and do it in order when somebody waits for them.
#include "cuda_double.h"

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

namespace {

struct Op {
    std::string text;
    double ms = 0;
    std::function<void()> work;
};

struct Allocation {
    std::unique_ptr<char[]> bytes;
    size_t size = 0;
    bool device = false;
};

constexpr char kGarbage = 0x5a;  // of fresh memory; as a float it is a large number

}  // namespace

struct CUevent_st {
    unsigned int flags = 0;
    bool recorded = false, reached = false;
    double at_ms = 0;
    CUstream_st* stream = nullptr;
    int busy = 0;
};

struct CUgraph_st {
    std::vector<Op> ops;
};

struct CUgraphExec_st {
    std::vector<Op> ops;
};

struct CUstream_st {
    std::deque<Op> waiting;
    bool capturing = false, invalid = false;
    std::vector<Op> captured;
};

namespace {

struct State {
    std::recursive_mutex mutex;
    cuda_double::Machine machine;
    cuda_double::Live live;
    std::map<std::string, std::pair<int, cudaError_t>> failing;
    int execution_fails_in = -1;
    cudaError_t execution_error = cudaSuccess;
    std::map<std::string, int> calls;
    std::vector<std::string> executed, misused;
    std::map<const char*, Allocation> memory;
    std::vector<CUstream_st*> streams;
    cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
    unsigned int event_flags = 0;
    double now_ms = 0;
};

State& state()
{
    static State* const made = new State;
    return *made;
}

thread_local int t_device = 0;
thread_local cudaError_t t_last = cudaSuccess;
thread_local CUstream_st* t_capturing = nullptr;

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t say(cudaError_t error)
{
    if (error != cudaSuccess) {
        t_last = error;
    }
    return error;
}

// Counts a call, and answers with the failure that a test asked for.
cudaError_t called(const std::string& function)
{
    State& all = state();
    ++all.calls[function];
    const auto found = all.failing.find(function);
    if (found != all.failing.end() && found->second.first-- == 0) {
        const cudaError_t error = found->second.second;
        all.failing.erase(found);
        return say(error);
    }
    return cudaSuccess;
}

void misuse(const std::string& what)
{
    state().misused.push_back(what);
}

// What must not happen in a thread that captures: it invalidates the capture.
cudaError_t unsafe_while_capturing()
{
    if (t_capturing == nullptr) {
        return cudaSuccess;
    }
    t_capturing->invalid = true;
    return say(cudaErrorStreamCaptureUnsupported);
}

const Allocation* allocation_of(const void* memory, size_t bytes)
{
    const auto* at = static_cast<const char*>(memory);
    auto found = state().memory.upper_bound(at);
    if (found == state().memory.begin()) {
        return nullptr;
    }
    --found;
    return at + bytes <= found->first + found->second.size ? &found->second : nullptr;
}

bool on_device(const void* memory, size_t bytes)
{
    const Allocation* found = allocation_of(memory, bytes);
    return found != nullptr && found->device;
}

cudaError_t give(cudaStream_t stream, Op op)
{
    if (stream == nullptr) {
        return say(cudaErrorInvalidResourceHandle);
    }
    if (t_device != 0) {
        misuse(op.text + " on the first GPU's stream while another is the thread's");
    }
    if (stream->capturing) {
        stream->captured.push_back(std::move(op));
    } else {
        stream->waiting.push_back(std::move(op));
    }
    return cudaSuccess;
}

cudaError_t execute_next(CUstream_st& stream)
{
    State& all = state();
    const Op op = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    if (all.execution_fails_in >= 0 && all.execution_fails_in-- == 0) {
        stream.waiting.clear();
        return say(all.execution_error);
    }
    all.now_ms += op.ms;
    all.executed.push_back(op.text);
    op.work();
    return cudaSuccess;
}

cudaError_t execute_all(CUstream_st& stream)
{
    while (!stream.waiting.empty()) {
        if (const cudaError_t error = execute_next(stream); error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

cudaError_t execute_until(CUevent_st& event)
{
    while (event.recorded && !event.reached && !event.stream->waiting.empty()) {
        if (const cudaError_t error = execute_next(*event.stream); error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

void require_idle(const char* what)
{
    for (const CUstream_st* stream : state().streams) {
        if (!stream->waiting.empty()) {
            misuse(std::string(what) + " while a stream has work to do");
        }
    }
}

cudaError_t allocate(void** memory, size_t bytes, bool device)
{
    if (const cudaError_t error = unsafe_while_capturing(); error != cudaSuccess) {
        return error;
    }
    if (bytes == 0 || t_device != 0) {
        return say(bytes == 0 ? cudaErrorInvalidValue : cudaErrorInvalidDevice);
    }
    Allocation made{std::make_unique<char[]>(bytes), bytes, device};
    std::memset(made.bytes.get(), kGarbage, bytes);
    *memory = made.bytes.get();
    ++(device ? state().live.device : state().live.pinned);
    state().memory.emplace(made.bytes.get(), std::move(made));
    return cudaSuccess;
}

cudaError_t release(void* memory, bool device)
{
    const auto found = state().memory.find(static_cast<char*>(memory));
    if (found == state().memory.end() || found->second.device != device) {
        misuse("memory freed that is none of its kind");
        return say(cudaErrorInvalidValue);
    }
    require_idle("memory freed");
    --(device ? state().live.device : state().live.pinned);
    state().memory.erase(found);
    return cudaSuccess;
}

}  // namespace

namespace cuda_double {

Machine& machine()
{
    return state().machine;
}

Live live()
{
    const Lock lock(state().mutex);
    return state().live;
}

void fail(const std::string& function, int after, cudaError_t error)
{
    const Lock lock(state().mutex);
    state().failing[function] = {after, error};
}

void fail_execution(int after, cudaError_t error)
{
    const Lock lock(state().mutex);
    state().execution_fails_in = after;
    state().execution_error = error;
}

void fail_nothing()
{
    const Lock lock(state().mutex);
    state().failing.clear();
    state().execution_fails_in = -1;
}

int calls(const std::string& function)
{
    const Lock lock(state().mutex);
    return state().calls[function];
}

cudaStreamCaptureMode last_capture_mode()
{
    return state().capture_mode;
}

unsigned int last_event_flags()
{
    return state().event_flags;
}

std::vector<std::string> executed()
{
    const Lock lock(state().mutex);
    return state().executed;
}

std::vector<std::string> misused()
{
    const Lock lock(state().mutex);
    return state().misused;
}

void forget()
{
    const Lock lock(state().mutex);
    state().calls.clear();
    state().executed.clear();
    state().misused.clear();
}

cudaError_t launch(cudaStream_t stream, const std::string& name, double ms, std::function<void()> work)
{
    const Lock lock(state().mutex);
    return give(stream, {name, ms, std::move(work)});
}

bool is_capturing(cudaStream_t stream)
{
    const Lock lock(state().mutex);
    return stream->capturing;
}

void require_device(const void* memory, size_t bytes)
{
    const Lock lock(state().mutex);
    if (!on_device(memory, bytes)) {
        misuse("a kernel at an address that is not the device's");
    }
}

}  // namespace cuda_double

using namespace cuda_double;

extern "C" {

cudaError_t cudaDriverGetVersion(int* version)
{
    *version = machine().driver;
    return called("cudaDriverGetVersion");
}

cudaError_t cudaGetDeviceCount(int* count)
{
    *count = machine().counting == cudaSuccess ? machine().devices : 0;
    return say(machine().counting);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device)
{
    if (device >= machine().devices) {
        return say(cudaErrorInvalidDevice);
    }
    std::strncpy(properties->name, machine().name.c_str(), sizeof properties->name - 1);
    properties->major = machine().major;
    properties->minor = machine().minor;
    return called("cudaGetDeviceProperties");
}

cudaError_t cudaGetDevice(int* device)
{
    *device = t_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaSetDevice"); error != cudaSuccess) {
        return error;
    }
    if (device >= machine().devices) {
        return say(cudaErrorInvalidDevice);
    }
    t_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetLastError()
{
    const cudaError_t last = t_last;
    t_last = cudaSuccess;
    return last;
}

const char* cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorInvalidValue: return "invalid argument";
    default: return "an error of the double";
    }
}

cudaError_t cudaMalloc(void** memory, size_t bytes)
{
    const Lock lock(state().mutex);
    const cudaError_t error = called("cudaMalloc");
    return error != cudaSuccess ? error : allocate(memory, bytes, true);
}

cudaError_t cudaFree(void* memory)
{
    const Lock lock(state().mutex);
    if (memory == nullptr) {  // which frees nothing, and makes the context
        return called("cudaFree");
    }
    return release(memory, true);
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned int)
{
    const Lock lock(state().mutex);
    const cudaError_t error = called("cudaHostAlloc");
    return error != cudaSuccess ? error : allocate(memory, bytes, false);
}

cudaError_t cudaFreeHost(void* memory)
{
    const Lock lock(state().mutex);
    return release(memory, false);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaMemcpyAsync"); error != cudaSuccess) {
        return error;
    }
    const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
    if (on_device(to, bytes) != to_device || on_device(from, bytes) != from_device) {
        return say(cudaErrorInvalidValue);
    }
    const std::string name = !to_device ? "D2H" : from_device ? "D2D" : "H2D";
    const double ms = !to_device ? 3 : from_device ? 2 : 1;
    return give(stream, {name + " " + std::to_string(bytes), ms, [=] {
                             if ((to_device && !on_device(to, bytes)) || (from_device && !on_device(from, bytes))) {
                                 misuse("a copy with memory that was freed");
                             } else {
                                 std::memcpy(to, from, bytes);
                             }
                         }});
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaMemsetAsync"); error != cudaSuccess) {
        return error;
    }
    if (!on_device(memory, bytes)) {
        return say(cudaErrorInvalidValue);
    }
    return give(stream, {"clear " + std::to_string(bytes), 0, [=] { std::memset(memory, value, bytes); }});
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaStreamCreateWithFlags"); error != cudaSuccess) {
        return error;
    }
    if (flags != cudaStreamNonBlocking) {
        misuse("a stream that waits for the default stream");
    }
    *stream = state().streams.emplace_back(new CUstream_st);
    ++state().live.streams;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    const Lock lock(state().mutex);
    if (!stream->waiting.empty() || stream->capturing) {
        misuse("a stream destroyed that has work to do");
    }
    for (auto at = state().streams.begin(); at != state().streams.end(); ++at) {
        if (*at == stream) {
            state().streams.erase(at);
            break;
        }
    }
    delete stream;
    --state().live.streams;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaStreamSynchronize"); error != cudaSuccess) {
        return error;
    }
    if (const cudaError_t error = unsafe_while_capturing(); error != cudaSuccess) {
        return error;
    }
    return execute_all(*stream);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaEventCreateWithFlags"); error != cudaSuccess) {
        return error;
    }
    *event = new CUevent_st;
    (*event)->flags = state().event_flags = flags;
    ++state().live.events;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    const Lock lock(state().mutex);
    if (event->recorded && !event->reached && !event->stream->waiting.empty()) {
        misuse("an event destroyed that a stream has still to reach");
    }
    delete event;
    --state().live.events;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaEventRecord"); error != cudaSuccess) {
        return error;
    }
    event->recorded = true;
    event->reached = false;
    event->stream = stream;
    event->busy = machine().busy_queries;
    return give(stream, {"event", 0, [event] {
                             event->reached = true;
                             event->at_ms = state().now_ms;
                         }});
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaEventQuery"); error != cudaSuccess) {
        return error;
    }
    if (event->recorded && !event->reached && event->busy-- > 0) {
        return say(cudaErrorNotReady);
    }
    return execute_until(*event);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaEventSynchronize"); error != cudaSuccess) {
        return error;
    }
    return execute_until(*event);
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t earlier, cudaEvent_t later)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaEventElapsedTime"); error != cudaSuccess) {
        return error;
    }
    if (((earlier->flags | later->flags) & cudaEventDisableTiming) != 0 || !earlier->recorded || !later->recorded) {
        return say(cudaErrorInvalidResourceHandle);
    }
    if (!earlier->reached || !later->reached) {
        return say(cudaErrorNotReady);
    }
    *ms = static_cast<float>(later->at_ms - earlier->at_ms);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaStreamBeginCapture"); error != cudaSuccess) {
        return error;
    }
    stream->capturing = true;
    stream->invalid = false;
    stream->captured.clear();
    state().capture_mode = mode;
    t_capturing = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph)
{
    const Lock lock(state().mutex);
    stream->capturing = false;
    t_capturing = nullptr;
    *graph = nullptr;
    if (const cudaError_t error = called("cudaStreamEndCapture"); error != cudaSuccess) {
        return error;
    }
    if (stream->invalid) {
        return say(cudaErrorStreamCaptureInvalidated);
    }
    *graph = new CUgraph_st{std::move(stream->captured)};
    stream->captured.clear();
    ++state().live.graphs;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaGraphInstantiateWithFlags"); error != cudaSuccess) {
        return error;
    }
    *executable = new CUgraphExec_st{graph->ops};
    ++state().live.executables;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    const Lock lock(state().mutex);
    return called("cudaGraphUpload");
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    const Lock lock(state().mutex);
    if (const cudaError_t error = called("cudaGraphLaunch"); error != cudaSuccess) {
        return error;
    }
    for (const Op& op : executable->ops) {
        if (const cudaError_t error = give(stream, op); error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    const Lock lock(state().mutex);
    delete graph;
    --state().live.graphs;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    const Lock lock(state().mutex);
    delete executable;
    --state().live.executables;
    return cudaSuccess;
}
}
