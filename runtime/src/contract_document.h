// contract.json as a Contract, where it is one that this runtime implements.
#pragma once

#include "json.h"
#include "qdbev_runtime/contract.h"

namespace qdbev::runtime {

// Throws Error (bad_input): where the document is of another version, contradicts itself, or means by a field what this
// runtime does not do.
Contract contract_of(const json::Field& document);

}  // namespace qdbev::runtime
