// When the past is kept, dropped, or refuses to be overtaken.
#include <clocale>
#include <limits>
#include <string>

#include "check.h"
#include "past.h"

namespace {

using namespace qdbev::runtime;

EgoState at(int64_t timestamp_us)
{
    EgoState ego;
    ego.timestamp_us = timestamp_us;
    return ego;
}

// The reason of a reset, "goes on", or the sentence of the refusal; what may be run is run.
std::string step(Past& past, int64_t timestamp_us, std::string_view scene)
{
    const EgoState ego = at(timestamp_us);
    Verdict verdict;
    if (const Status status = past.judge(ego, scene, verdict); !status.ok()) {
        CHECK(status.code() == Code::bad_input);
        return status.message();
    }
    CHECK(verdict.reset == (*verdict.reason.c_str() != '\0'));
    past.commit(ego, scene);
    CHECK(past.ego().timestamp_us == timestamp_us);
    return verdict.reset ? verdict.reason.c_str() : "goes on";
}

void a_drive()
{
    Past past(2.0);
    CHECK(step(past, 1000000, "a") == "first frame");
    CHECK(step(past, 1500000, "a") == "goes on");
    CHECK(step(past, 3500000, "a") == "goes on");  // 2 s to the microsecond
    CHECK(step(past, 5500001, "a") == "gap of 2.00 s");
    CHECK(step(past, 8000001, "a") == "gap of 2.50 s");
    CHECK(step(past, 8000002, "ab") == "new scene");
    CHECK(step(past, 4000000, "b") == "new scene");  // another scene may lie before
    CHECK(step(past, 4000001, "") == "new scene");
    CHECK(step(past, 4000002, std::string_view()) == "goes on");
    past.forget();
    CHECK(step(past, 5, "") == "first frame");
}

void frames_from_the_past_are_refused()
{
    Past past(2.0);
    CHECK(step(past, 1000000, "night") == "first frame");
    const std::string refusal = step(past, 1000000, "night");
    CHECK(check::contains(refusal, "a frame 0.000 s before or at the time of the last one in scene 'night'; needed:"));
    CHECK(check::contains(step(past, 250000, "night"), "a frame 0.750 s before"));
    CHECK(step(past, 1000001, "night") == "goes on");  // the refused ones left nothing behind
}

void times_may_be_any()
{
    constexpr int64_t kFirst = std::numeric_limits<int64_t>::min();
    constexpr int64_t kLast = std::numeric_limits<int64_t>::max();
    Past past(2.0);
    CHECK(step(past, kFirst, "a") == "first frame");
    CHECK(step(past, kLast, "a") == "gap of 18446744073709.55 s");
    CHECK(check::contains(step(past, kFirst, "a"), "a frame 18446744073709.551 s before"));
}

void a_verdict_changes_nothing()
{
    Past past(2.0);
    CHECK(step(past, 1000000, "a") == "first frame");
    for (int i = 0; i < 2; ++i) {
        Verdict verdict;
        verdict.reason.add("as it was");
        CHECK(past.judge(at(9000000), "b", verdict).ok() && verdict.reset);
        CHECK(!past.judge(at(9), "a", verdict).ok());
        CHECK(std::string(verdict.reason.c_str()) == "new scene");
    }
    CHECK(step(past, 1500000, "a") == "goes on");
}

void names_have_a_limit()
{
    Past past(2.0);
    const std::string longest(255, 'x');
    CHECK(step(past, 1, longest) == "first frame");
    CHECK(step(past, 2, longest) == "goes on");
    CHECK(step(past, 3, longest.substr(1)) == "new scene");
    CHECK(step(past, 4, longest) == "new scene");
    CHECK(check::contains(step(past, 5, longest + "x"), "a scene's name of 256 bytes; needed: at most 255 bytes"));
    const std::string refusal = step(past, 4, longest);
    CHECK(check::contains(refusal, "in scene 'xxx") && check::contains(refusal, "reset the session"));
    using namespace std::string_literals;
    CHECK(step(past, 6, "a\0b"s) == "new scene" && step(past, 7, "a\0c"s) == "new scene");
}

}  // namespace

int main()
{
    a_drive();
    frames_from_the_past_are_refused();
    times_may_be_any();
    a_verdict_changes_nothing();
    names_have_a_limit();
    // A program's language has no say in the sentences.
    for (const char* language : {"de_DE.UTF-8", "fr_FR.UTF-8"}) {
        if (std::setlocale(LC_ALL, language) != nullptr) {
            a_drive();
        }
    }
    return check::report();
}
