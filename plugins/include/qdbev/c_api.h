/* The library's C interface: its version, its description of the ops, and the ops themselves on the CPU.
 *
 * Functions that can fail return a qdbev_status and write a sentence into `error` (cut to `error_size`, always
 * terminated, may be null). No function throws or keeps state, and only qdbev_cuda_run touches a GPU. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define QDBEV_API __declspec(dllexport)
#else
#define QDBEV_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qdbev_status {
    QDBEV_OK = 0,
    QDBEV_REFUSED = 1, /* the input makes no sense; the sentence says why */
    QDBEV_FAILED = 2   /* something else: out of memory, a bug */
} qdbev_status;

typedef enum qdbev_dtype { QDBEV_FLOAT32 = 0, QDBEV_FLOAT16 = 1, QDBEV_INT8 = 2 } qdbev_dtype;

typedef enum qdbev_kind { QDBEV_INT = 0, QDBEV_INTS = 1, QDBEV_FLOAT = 2, QDBEV_FLOATS = 3 } qdbev_kind;

typedef struct qdbev_tensor {
    void* data;          /* dense, row major; any address that is a multiple of the element's size */
    const int64_t* dims;
    int32_t rank;
    int32_t dtype;       /* qdbev_dtype */
} qdbev_tensor;

typedef struct qdbev_attribute {
    const char* name;
    const int64_t* ints;   /* for QDBEV_INT and QDBEV_INTS, else null */
    const double* floats;  /* for QDBEV_FLOAT and QDBEV_FLOATS, else null */
    int32_t count;
    int32_t kind;          /* qdbev_kind */
} qdbev_attribute;

QDBEV_API const char* qdbev_version(void);
QDBEV_API int32_t qdbev_abi(void);

/* JSON: version, abi, what the library was built with (CUDA architectures and TensorRT headers, null where absent) and
 * the ops with their inputs and fields. Lives as long as the library. */
QDBEV_API const char* qdbev_describe(void);

/* Runs one op on the CPU with up to `threads` threads (0: one; never more than the
 * machine has). The result does not depend on their number. */
QDBEV_API int32_t qdbev_host_run(const char* op, const qdbev_tensor* inputs, int32_t input_count,
    const qdbev_tensor* output, const qdbev_attribute* attributes, int32_t attribute_count, int32_t threads, char* error,
    size_t error_size);

/* Runs one op's kernel on the GPU: the tensors are device memory, `stream` is a cudaStream_t. Refused where the library
 * was built without CUDA. */
QDBEV_API int32_t qdbev_cuda_run(const char* op, const qdbev_tensor* inputs, int32_t input_count,
    const qdbev_tensor* output, const qdbev_attribute* attributes, int32_t attribute_count, void* stream, char* error,
    size_t error_size);

#ifdef __cplusplus
}
#endif
