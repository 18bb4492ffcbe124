// What qdbev-stream is asked for on its command line.
#pragma once

#include <string>

#include "qdbev_runtime/engine.h"

namespace qdbev::apps {

extern const char* const kHelp;

struct Arguments {
    std::string bundle, samples, json;
    int repeats = 1;
    int warmup = 10;
    runtime::EngineOptions engine;
    runtime::SessionOptions session;
};

// Throws runtime::Error (usage).
Arguments parse(int count, char** words);

}  // namespace qdbev::apps
