/* For programs that link the plugin library instead of loading it through IPluginRegistry::loadLibrary.
 *
 * `registry` is an nvinfer1::IPluginRegistry* (getPluginRegistry()), `logger` an nvinfer1::ILogger* or null; both must
 * outlive the plugins. Returns how many of the ops were registered: fewer than all means that a name was taken, -1 that
 * something failed, and the log says what. Present only in a library that was built with TensorRT headers. */
#pragma once

#include "qdbev/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

QDBEV_API int32_t qdbev_register_plugins(void* registry, void* logger);

#ifdef __cplusplus
}
#endif
