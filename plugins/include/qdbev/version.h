// Version of the plugin library and of its binary contracts.
//
// QDBEV_ABI changes when the C functions, the serialised form of a plugin or the meaning of an op changes: a TensorRT
// plan that carries another number is refused at load instead of computing something else.
#pragma once

#define QDBEV_VERSION_MAJOR 0
#define QDBEV_VERSION_MINOR 1
#define QDBEV_VERSION_PATCH 0
#define QDBEV_VERSION "0.1.0"
#define QDBEV_ABI 1
