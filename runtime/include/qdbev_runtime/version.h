/* Version of the runtime library; QDBEV_RUNTIME_BUNDLE_SCHEMA and QDBEV_RUNTIME_CONTRACT are what it reads. */
#pragma once

#define QDBEV_RUNTIME_VERSION "0.1.0"
#define QDBEV_RUNTIME_BUNDLE_SCHEMA "qdbev-bundle/1"
#define QDBEV_RUNTIME_CONTRACT 1
