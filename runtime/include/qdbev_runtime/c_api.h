/* The C interface: bundles opened as engines, frames run in sessions. Its binary form is kept; that of the C++ headers
 * is the compiler's affair.
 *
 * Functions that can fail return a qdbev_rt_code and write a sentence into `error` (cut to `error_size`, always
 * terminated, may be null). None throws, and none keeps an error for later.
 *
 * Structures begin with their own size, so that they can grow at their end: initialise each with its function and the
 * size that your header gives it. A later library takes an earlier header's; an earlier one refuses a later's. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "qdbev_runtime/export.h"
#include "qdbev_runtime/version.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qdbev_rt_code {
    QDBEV_RT_DONE = 0,
    QDBEV_RT_USAGE = 2,     /* the caller asked for what makes no sense */
    QDBEV_RT_BAD_INPUT = 3, /* a bundle or a frame that cannot be used */
    QDBEV_RT_MISSING = 4,   /* this machine lacks a library, a GPU, a driver */
    QDBEV_RT_FAILED = 5     /* a backend gave up while it ran, or memory ran out */
} qdbev_rt_code;

enum { QDBEV_RT_CAMERAS = 6, QDBEV_RT_CLASSES = 10 };
enum { QDBEV_RT_HOST = 0, QDBEV_RT_DEVICE = 1 };                   /* memory */
enum { QDBEV_RT_BLOCK = 0, QDBEV_RT_SPIN = 1 };                    /* how a step waits */
enum { QDBEV_RT_ERROR = 0, QDBEV_RT_WARNING = 1, QDBEV_RT_INFO = 2 }; /* what a logger is told */

typedef struct qdbev_rt_engine qdbev_rt_engine;   /* may be used by several threads */
typedef struct qdbev_rt_session qdbev_rt_session; /* one sequence of frames; not for two threads at once */

typedef void (*qdbev_rt_logger)(int32_t severity, const char* sentence, void* user);

typedef struct qdbev_rt_engine_options {
    size_t size;
    const char* backend_library; /* of ONNX Runtime or TensorRT; null: found as docs/runtime.md says */
    int32_t threads;             /* of an operator under ONNX Runtime; 0: as the bundle was built */
    qdbev_rt_logger logger;      /* null: warnings and errors go to stderr; called from any thread */
    void* logger_user;
} qdbev_rt_engine_options;

typedef struct qdbev_rt_session_options {
    size_t size;
    int32_t cuda_graph; /* TensorRT: each frame is launched as one captured graph */
    int32_t wait;       /* QDBEV_RT_BLOCK or QDBEV_RT_SPIN */
    int32_t timed;      /* tell upload, compute and download apart */
    float min_score;    /* boxes below are left out */
    double max_gap_s;   /* 0: as the contract says */
} qdbev_rt_session_options;

typedef struct qdbev_rt_contract {
    size_t size;
    const char* variant;
    const char* backend;
    const char* precision;
    const char* cameras[QDBEV_RT_CAMERAS];
    const char* classes[QDBEV_RT_CLASSES];
    int32_t source_height, source_width; /* of native camera frames */
    int32_t queries, max_boxes;
    size_t image_bytes;                  /* of the image input */
    size_t state_bytes;                  /* of bev_embed */
} qdbev_rt_contract;

typedef struct qdbev_rt_frame {
    size_t size;
    /* Either six native camera frames in host memory, 8 bit, interleaved, in the order of the contract's cameras... */
    const uint8_t* cameras[QDBEV_RT_CAMERAS];
    size_t row_bytes; /* from a row to the next; 0: rows lie without gaps */
    int32_t bgr;      /* as OpenCV has them; else RGB */
    /* ...or, where it is not null, the image input as the network takes it. */
    int32_t image_memory; /* QDBEV_RT_HOST or QDBEV_RT_DEVICE */
    const void* image;
    const float* lidar2img; /* [6, 4, 4], to the resized image: qdbev_rt_scale_lidar2img */
    const char* scene;      /* any name that tells sequences apart, of at most 255 bytes */
    int64_t timestamp_us;
    double translation[3];   /* metres, global */
    double rotation[4];      /* unit quaternion w, x, y, z */
    double acceleration[3];  /* ego frame, m/s^2 */
    double rotation_rate[3]; /* ego frame, rad/s */
    double velocity[3];      /* ego frame, m/s */
} qdbev_rt_frame;

/* In the LiDAR frame of the frame's moment: x right, y forward, z up on nuScenes. */
typedef struct qdbev_rt_box {
    float center[3];   /* gravity centre, metres */
    float size[3];     /* width, length, height, metres */
    float yaw;         /* from the x axis to where the length points, counter-clockwise, radians */
    float velocity[2]; /* metres per second */
    float score;
    int32_t label;     /* index into the contract's classes */
} qdbev_rt_box;

typedef struct qdbev_rt_output {
    size_t size;
    const qdbev_rt_box* boxes; /* by falling score; the session's own, until its next step */
    size_t count;
    size_t box_bytes;          /* from a box to the next: a later library's boxes may be longer */
    int32_t reset;             /* whether the frame began a sequence anew, */
    const char* reset_reason;  /* and why; until the next step */
    double prepare_ms, upload_ms, compute_ms, download_ms, decode_ms, total_ms; /* negative: not told */
} qdbev_rt_output;

QDBEV_RUNTIME_EXPORT const char* qdbev_rt_version(void);

/* The defaults. `size` is sizeof(*options), sizeof(*frame), ... where you compile. */
QDBEV_RUNTIME_EXPORT void qdbev_rt_init_engine_options(qdbev_rt_engine_options* options, size_t size);
QDBEV_RUNTIME_EXPORT void qdbev_rt_init_session_options(qdbev_rt_session_options* options, size_t size);
QDBEV_RUNTIME_EXPORT void qdbev_rt_init_contract(qdbev_rt_contract* contract, size_t size);
QDBEV_RUNTIME_EXPORT void qdbev_rt_init_frame(qdbev_rt_frame* frame, size_t size);
QDBEV_RUNTIME_EXPORT void qdbev_rt_init_output(qdbev_rt_output* output, size_t size);

/* Verifies the bundle and loads it. `options` may be null. */
QDBEV_RUNTIME_EXPORT int32_t qdbev_rt_open(const char* bundle, const qdbev_rt_engine_options* options,
    qdbev_rt_engine** engine, char* error, size_t error_size);
QDBEV_RUNTIME_EXPORT void qdbev_rt_close(qdbev_rt_engine* engine); /* null is fine; its sessions live on */

/* The strings are the engine's. */
QDBEV_RUNTIME_EXPORT int32_t qdbev_rt_describe(
    const qdbev_rt_engine* engine, qdbev_rt_contract* contract, char* error, size_t error_size);

/* Projections [6, 4, 4] to the resized image from those to native frames. */
QDBEV_RUNTIME_EXPORT int32_t qdbev_rt_scale_lidar2img(
    const qdbev_rt_engine* engine, const double* native, float* scaled, char* error, size_t error_size);

/* Allocates everything that its frames will need. `options` may be null. */
QDBEV_RUNTIME_EXPORT int32_t qdbev_rt_new_session(const qdbev_rt_engine* engine,
    const qdbev_rt_session_options* options, qdbev_rt_session** session, char* error, size_t error_size);
QDBEV_RUNTIME_EXPORT void qdbev_rt_end_session(qdbev_rt_session* session); /* null is fine */

/* Runs one frame. A frame that is refused, or fails, leaves the session as it was. */
QDBEV_RUNTIME_EXPORT int32_t qdbev_rt_step(qdbev_rt_session* session, const qdbev_rt_frame* frame,
    qdbev_rt_output* output, char* error, size_t error_size);

/* Forgets the past: the next frame begins a sequence. */
QDBEV_RUNTIME_EXPORT void qdbev_rt_reset(qdbev_rt_session* session);

/* The session's own image input, which is not copied when a frame passes it; null where it has none in such memory. */
QDBEV_RUNTIME_EXPORT void* qdbev_rt_image_buffer(qdbev_rt_session* session, int32_t memory);

/* TensorRT: the cudaStream_t on which frames run; work queued there comes before the next frame. Else null. */
QDBEV_RUNTIME_EXPORT void* qdbev_rt_cuda_stream(qdbev_rt_session* session);

/* Copies bev_embed of the last step. */
QDBEV_RUNTIME_EXPORT int32_t qdbev_rt_read_state(
    qdbev_rt_session* session, void* out, size_t bytes, char* error, size_t error_size);

#ifdef __cplusplus
}
#endif
