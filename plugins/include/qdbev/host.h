// The ops on the CPU.
#pragma once

#include "qdbev/op.h"

namespace qdbev {

// Runs what `prepare` made, with up to `threads` threads of the machine.
void run_on_host(const OpSpec& op, const Params& params, int32_t threads);

}  // namespace qdbev
