// The reports of a bundle, guard.json, parity.json and layers.json, held against what its manifest says of them.
#pragma once

#include <string>

#include "json.h"

namespace qdbev::runtime {

inline constexpr const char* kManifest = "manifest.json";
inline constexpr const char* kContract = "contract.json";
inline constexpr const char* kLayers = "layers.json";
inline constexpr const char* kGuard = "guard.json";
inline constexpr const char* kParity = "parity.json";

// All of them throw Error (bad_input).

void require_layers(const json::Field& layers);

// The precision guard passed, and the manifest says of it what its report says, of the precision that was asked for
// (empty: not stated) and of whether int8 is emulated.
void require_guard(const json::Field& guard, const json::Field& manifest, const std::string& precision, bool emulated);

// Parity passed, and the manifest tells its few numbers.
void require_parity(const json::Field& parity, const json::Field& manifest);

// There is no report of parity, and the manifest says what is not proved.
void require_no_parity(const json::Field& manifest);

}  // namespace qdbev::runtime
