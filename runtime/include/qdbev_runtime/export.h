/* What leaves the shared library. */
#pragma once

#if defined(_WIN32)
#define QDBEV_RUNTIME_EXPORT __declspec(dllexport)
#else
#define QDBEV_RUNTIME_EXPORT __attribute__((visibility("default")))
#endif
