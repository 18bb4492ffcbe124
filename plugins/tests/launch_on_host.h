// What a test can tell, and learn from, the launch functions that run on the host.
#pragma once

#include "qdbev/launch.h"

namespace qdbev {

extern int g_next_launch_error;
extern Stream g_last_stream;

}  // namespace qdbev
