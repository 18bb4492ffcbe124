/* The shortest whole program on the C interface: one blank frame through a bundle.
 *
 *     cc minimal.c -lqdbev_runtime -o minimal && ./minimal student.qdbev */
#include <stdio.h>
#include <stdlib.h>

#include "qdbev_runtime/c_api.h"

static int stop(const char* what, int32_t code, const char* error)
{
    fprintf(stderr, "%s: %s\n", what, error);
    return (int)code;
}

/* Opens a session, runs the frame and prints its boxes. */
static int32_t detect(const qdbev_rt_engine* engine, const qdbev_rt_frame* frame, char* error, size_t error_size)
{
    qdbev_rt_session* session = NULL;
    int32_t code = qdbev_rt_new_session(engine, NULL, &session, error, error_size);
    if (code == QDBEV_RT_DONE) {
        qdbev_rt_output output;
        qdbev_rt_init_output(&output, sizeof output);
        code = qdbev_rt_step(session, frame, &output, error, error_size);
        if (code == QDBEV_RT_DONE) {
            printf("%zu boxes in %.1f ms (%s)\n", output.count, output.total_ms, output.reset_reason);
            for (size_t i = 0; i < output.count && i < 3; ++i) {
                const qdbev_rt_box* box = &output.boxes[i];
                printf("  class %d, score %.3f at (%.1f, %.1f, %.1f) m\n", box->label, (double)box->score,
                    (double)box->center[0], (double)box->center[1], (double)box->center[2]);
            }
        }
    }
    qdbev_rt_end_session(session);
    return code;
}

int main(int count, char** words)
{
    if (count != 2) {
        fprintf(stderr, "usage: %s BUNDLE\n", words[0]);
        return QDBEV_RT_USAGE;
    }
    char error[512];
    qdbev_rt_engine* engine = NULL;
    int32_t code = qdbev_rt_open(words[1], NULL, &engine, error, sizeof error);
    if (code != QDBEV_RT_DONE) {
        return stop(words[1], code, error);
    }
    qdbev_rt_contract contract;
    qdbev_rt_init_contract(&contract, sizeof contract);
    code = qdbev_rt_describe(engine, &contract, error, sizeof error);
    if (code != QDBEV_RT_DONE) {
        qdbev_rt_close(engine);
        return stop("describe", code, error);
    }
    printf("%s on %s, %s\n", contract.variant, contract.backend, contract.precision);

    /* In a car the cameras' own buffers, and the calibration's projections from the LiDAR frame to their pixels. */
    const size_t pixels = (size_t)contract.source_height * (size_t)contract.source_width;
    unsigned char* grey = calloc(pixels, 3);
    double native[QDBEV_RT_CAMERAS * 16] = {0};
    float lidar2img[QDBEV_RT_CAMERAS * 16];
    for (int camera = 0; camera < QDBEV_RT_CAMERAS; ++camera) {
        native[camera * 16 + 0] = native[camera * 16 + 5] = native[camera * 16 + 10] = native[camera * 16 + 15] = 1;
    }
    code = grey == NULL ? QDBEV_RT_FAILED : qdbev_rt_scale_lidar2img(engine, native, lidar2img, error, sizeof error);
    if (code == QDBEV_RT_DONE) {
        qdbev_rt_frame frame;
        qdbev_rt_init_frame(&frame, sizeof frame);
        for (int camera = 0; camera < QDBEV_RT_CAMERAS; ++camera) {
            frame.cameras[camera] = grey;
        }
        frame.lidar2img = lidar2img;
        frame.scene = "parking";
        frame.timestamp_us = 1000000;
        code = detect(engine, &frame, error, sizeof error);
    }
    free(grey);
    qdbev_rt_close(engine);
    return code == QDBEV_RT_DONE ? 0 : stop("a frame", code, error);
}
