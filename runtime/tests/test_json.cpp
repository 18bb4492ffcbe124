// The JSON reader: what it takes, what it refuses and how it says so.
#include "json.h"

#include <cmath>
#include <limits>
#include <string>

#include "check.h"
#include "qdbev_runtime/status.h"

using qdbev::runtime::Code;
using qdbev::runtime::Error;
using qdbev::runtime::Status;
using qdbev::runtime::json::Document;
using qdbev::runtime::json::Field;
using qdbev::runtime::json::Value;
namespace json = qdbev::runtime::json;

namespace {

Value parsed(const std::string& text)
{
    return json::parse(text, "doc.json", "look again");
}

std::string refused(const std::string& text)
{
    return check::refusal([&] { parsed(text); });
}

bool refused_for(const std::string& text, const char* why)
{
    return check::contains(refused(text), why);
}

bool is_integer(const std::string& text, int64_t wanted)
{
    const Value value = parsed(text);
    return value.integer() != nullptr && *value.integer() == wanted && value.number() == nullptr;
}

bool is_number(const std::string& text, double wanted)
{
    const Value value = parsed(text);
    return value.number() != nullptr && *value.number() == wanted && value.integer() == nullptr;
}

bool is_text(const std::string& text, const std::string& wanted)
{
    const Value value = parsed(text);
    return value.text() != nullptr && *value.text() == wanted;
}

std::string repeated(const char* text, std::size_t times)
{
    std::string all;
    for (std::size_t i = 0; i < times; ++i) {
        all += text;
    }
    return all;
}

void test_values()
{
    CHECK(parsed("null").is_null());
    CHECK(*parsed(" true\n").flag());
    CHECK(!*parsed("\tfalse\r").flag());
    CHECK(parsed("[]").list()->empty());
    CHECK(parsed("{ }").object()->empty());
    const Value nested = parsed(R"({"b": [1, {"c": null}], "a": "x"})");
    CHECK(nested.object()->size() == 2);
    CHECK(*nested.find("a")->text() == "x");
    CHECK(nested.find("b")->list()->at(1).find("c")->is_null());
    CHECK(nested.find("d") == nullptr);
    CHECK(nested.find("a")->find("x") == nullptr);
}

void test_numbers()
{
    CHECK(is_integer("0", 0));
    CHECK(is_integer("-0", 0));
    CHECK(is_integer("9223372036854775807", std::numeric_limits<int64_t>::max()));
    CHECK(is_integer("-9223372036854775808", std::numeric_limits<int64_t>::min()));
    CHECK(is_integer("9007199254740993", 9007199254740993));
    CHECK(is_number("9223372036854775808", 9223372036854775808.0));
    CHECK(is_number("-12345678901234567890123", -12345678901234567890123.0));
    CHECK(is_number("123.675", 123.675));
    CHECK(is_number("1.0", 1.0));
    CHECK(is_number("-1e-07", -1e-07));
    CHECK(is_number("1E+2", 100.0));
    CHECK(is_number("0e0", 0.0));
    CHECK(is_number("5e-324", std::numeric_limits<double>::denorm_min()));
    CHECK(is_number("1.7976931348623157e308", std::numeric_limits<double>::max()));
    CHECK(refused_for("1e309", "beyond double precision"));
    CHECK(refused_for("-1e999999999999", "beyond double precision"));
    CHECK(refused_for(repeated("9", 400), "beyond double precision"));
    CHECK(refused_for(repeated("1", 100'000), "too many digits"));
    for (const char* text : {"+1", "01", "-01", "-", "1.", ".5", "1.e2", "1e", "1e+", "0x10", "1_000", "1,5", "- 1",
             "NaN", "-Infinity", "Infinity", "inf", "1f", "--1", "1-", "1e5.5", "\xD9\xA1"}) {
        CHECK(!refused(text).empty());
    }
}

void test_texts()
{
    CHECK(is_text(R"("")", ""));
    CHECK(is_text(R"("\"\\\/\b\f\n\r\t")", "\"\\/\b\f\n\r\t"));
    CHECK(is_text(R"("\u0041\u00e9\u20AC\uFFFF")", "A\xC3\xA9\xE2\x82\xAC\xEF\xBF\xBF"));
    CHECK(is_text(R"("\u0000")", std::string(1, '\0')));
    CHECK(is_text(R"("\uD83D\uDE00")", "\xF0\x9F\x98\x80"));
    CHECK(is_text(R"("\uDBFF\uDFFF")", "\xF4\x8F\xBF\xBF"));
    CHECK(is_text("\"\x7F\"", "\x7F"));
    for (const char* text : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
             "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
        CHECK(is_text('"' + std::string(text) + '"', text));
    }
    for (const char* text : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2\x41", "\xE0\x9F\xBF", "\xE2\x82",
             "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF0\x90\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
             "\xFE", "\xFF", "\xF0\x90\x41\x80"}) {
        CHECK(refused_for('"' + std::string(text) + '"', "no UTF-8"));
    }
    for (const char* text : {R"("\uD800")", R"("\uD800x")", R"("\uD800\n")", R"("\uD800\u0041")", R"("\uD800\uD800")",
             R"("\uDC00")", R"("\uDFFF\uD800")"}) {
        CHECK(refused_for(text, "half of a surrogate pair"));
    }
    for (const char* text :
        {R"("\u12")", R"("\u12G4")", R"("\u+123")", R"("\u-123")", R"("\u 123")", R"("\u)", R"("\u123)"}) {
        CHECK(refused_for(text, "four hexadecimal digits"));
    }
    for (const char* text : {R"("\x41")", R"("\U0041")", R"("\)", R"("\')"}) {
        CHECK(refused_for(text, "an escape that is none"));
    }
    CHECK(refused_for("\"a\nb\"", "a control character"));
    CHECK(refused_for(std::string("\"a\0b\"", 5), "a control character"));
    CHECK(refused_for("\"abc", "a text without an end"));
    CHECK(refused_for("'abc'", "no value"));
}

void test_grammar()
{
    for (const char* text :
        {"", " ", "[", "]", "[1,]", "[,1]", "[1 2]", "[1,,2]", "{", "}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}",
            "{a:1}", "{1:2}", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "[1}", "{\"a\":1]", "tru", "nul", "True", "truex",
            "None", "[1] 2", "{} {}", "// a\n1", "/* a */ 1", "\xEF\xBB\xBF{}", "\v1", "1\f", "\xC2\xA0"}) {
        CHECK(check::contains(refused(text), "doc.json is no JSON (line "));
    }
    CHECK(refused("[1,\n 2,\n  x]")
        == "doc.json is no JSON (line 3, column 3: no value where one is needed); needed: a whole JSON document. "
           "Next: look again");
    CHECK(refused_for(std::string("1\0", 2), "something after its end"));
    CHECK(refused_for(R"({"a": 1, "b": 2, "a": 3})", "the same name twice"));
    CHECK(refused_for(R"({"a": 1, "\u0061": 3})", "the same name twice"));
    CHECK(refused_for(R"([{"x": {"": 1, "": 1}}])", "the same name twice"));
    CHECK(refused(R"({"a": {"a": 1}})").empty());
}

void test_limits()
{
    CHECK(refused(repeated("[", json::kMaxDepth) + repeated("]", json::kMaxDepth)).empty());
    CHECK(refused_for(repeated("[", json::kMaxDepth + 1) + repeated("]", json::kMaxDepth + 1), "deeper"));
    CHECK(refused_for(repeated("[", 1'000'000), "deeper"));
    CHECK(refused_for(repeated("{\"a\":", 1'000'000), "deeper"));
    CHECK(refused_for('[' + repeated("0,", json::kMaxValues) + "0]", "more values"));
    CHECK(refused_for('"' + std::string(json::kMaxBytes, 'a') + '"', "at most 268435456"));
}

// No text that is cut short is taken, none is read beyond its end.
void test_every_truncation()
{
    const std::string whole =
        "{\"a\": [1, -2.5e+3, true, false, null], \"\\u00e9\\uD83D\\uDE00\": \"\xE2\x82\xAC\xF0\x9F\x98\x80\\n\", "
        "\"o\": {}}";
    CHECK(refused(whole).empty());
    for (std::size_t length = 0; length < whole.size(); ++length) {
        const std::string cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
        CHECK(check::contains(refused(cut), "doc.json is no JSON"));
    }
}

void test_equality()
{
    const auto same = [](const char* one, const char* other) {
        const bool there = json::equal(parsed(one), parsed(other));
        CHECK(there == json::equal(parsed(other), parsed(one)));
        return there;
    };
    CHECK(same("1", "1.0"));
    CHECK(same("[1, {\"a\": 2, \"b\": []}]", "[1.0, {\"b\": [], \"a\": 2}]"));
    CHECK(same("null", "null"));
    CHECK(same("-9223372036854775808", "-9223372036854775808.0"));
    CHECK(!same("9223372036854775807", "9223372036854775808"));
    CHECK(!same("9007199254740993", "9007199254740992.0"));
    CHECK(!same("1", "true"));
    CHECK(!same("0", "false"));
    CHECK(!same("null", "false"));
    CHECK(!same("1", "1.5"));
    CHECK(!same("1", "\"1\""));
    CHECK(!same("\"a\"", "\"b\""));
    CHECK(!same("[1]", "[1, 2]"));
    CHECK(!same("[]", "{}"));
    CHECK(!same("{\"a\": 1}", "{\"b\": 1}"));
    CHECK(!same("{\"a\": 1}", "{\"a\": 2}"));
    CHECK(!same("{\"a\": 1}", "{\"a\": 1, \"b\": 1}"));
}

void test_fields()
{
    const Document document("doc.json", "look again",
        R"({"build": {"threads": 2000, "list": [1, "x", 2.5], "on": true, "bad": "a\u001b[2J", "none": null}})");
    const Field build = document.root()["build"];
    const auto sentence = [](auto&& function) { return check::refusal(function); };
    CHECK(build["list"][0].integer(0, 1) == 1);
    CHECK(build["list"][2].number() == 2.5);
    CHECK(build["list"][0].number() == 1.0);
    CHECK(build["list"][1].text() == "x");
    CHECK(build["on"].flag());
    CHECK(!build.find("off"));
    CHECK(build["none"].value().is_null());
    CHECK(build["bad"].string() == "a\x1b[2J");
    CHECK(sentence([&] { build["threads"].integer(1, 1024); })
        == "doc.json: 'build.threads' is 2000; needed: a whole number from 1 to 1024. Next: look again");
    CHECK(sentence([&] { build["list"][2].integer(0, 9); })
        == "doc.json: 'build.list[2]' is 2.5; needed: a whole number from 0 to 9. Next: look again");
    CHECK(sentence([&] { build["bad"].text(); })
        == "doc.json: 'build.bad' is 'a\\x1b[2J'; needed: a text without control characters. Next: look again");
    CHECK(check::contains(sentence([&] { build["off"]; }), "doc.json has no field 'build.off'"));
    CHECK(check::contains(sentence([&] { build["on"].integer(0, 1); }), "'build.on' is true"));
    CHECK(check::contains(sentence([&] { build["on"].number(); }), "needed: a number"));
    CHECK(check::contains(sentence([&] { build["on"].string(); }), "needed: a text"));
    CHECK(check::contains(sentence([&] { build["none"].flag(); }), "'build.none' is null; needed: true or false"));
    CHECK(check::contains(sentence([&] { build["on"]["x"]; }), "needed: an object"));
    CHECK(check::contains(sentence([&] { build["on"].length(); }), "needed: a list"));
    CHECK(check::contains(sentence([&] { build["list"][3]; }), "is a list of 3; needed: a list of more than 3"));
    CHECK(check::contains(sentence([&] { build["list"].require_length(2); }), "is a list of 3; needed: a list of 2"));
    CHECK(check::contains(sentence([&] { document.root().flag(); }), "doc.json is an object; needed: true or false"));

    const auto difference = [&](const char* wanted) {
        return sentence([&, value = parsed(wanted)] { build["list"].require(value); });
    };
    CHECK(difference(R"([1, "x", 2.5])").empty());
    CHECK(check::contains(difference(R"([1, "y", 2.5])"), "'build.list[1]' is 'x'; needed: 'y'"));
    CHECK(check::contains(difference(R"([1, "x"])"), "is a list of 3; needed: a list of 2"));
    CHECK(check::contains(difference("{}"), "is a list of 3; needed: an object"));
    CHECK(check::contains(
        sentence([&, value = parsed(R"({"threads": 2000})")] { build.require(value); }), "needed: no such field"));
}

void test_quoted()
{
    CHECK(json::quoted("a\x1b[0m\n\x7F\xC2\x9B") == R"('a\x1b[0m\n\x7f\x9b')");
    CHECK(json::quoted("\xC3\xA9\xC2\xA0") == "'\xC3\xA9\xC2\xA0'");
    CHECK(json::quoted(std::string(80, 'a')) == '\'' + std::string(80, 'a') + '\'');
    CHECK(json::quoted(std::string(81, 'a')) == '\'' + std::string(80, 'a') + "...'");
    CHECK(json::quoted(std::string(79, 'a') + "\xC3\xA9") == '\'' + std::string(79, 'a') + "...'");
    CHECK(json::is_printable("a\n\t\xC3\xA9"));
    CHECK(!json::is_printable("\r"));
    CHECK(!json::is_printable(std::string("a\0", 2)));
    CHECK(!json::is_printable("\xC2\x85"));
    CHECK(!json::is_printable("\x7F"));
}

// What all sentences are made of.
void test_status()
{
    CHECK(Status().ok());
    CHECK(std::string(Status().message()).empty());
    CHECK(std::string(Status(Code::done, "a", "b", "c").message()).empty());
    const Status status(Code::failed, "x found", "y", "do z");
    CHECK(!status.ok());
    CHECK(status.code() == Code::failed);
    CHECK(status.message() == std::string("x found; needed: y. Next: do z"));
    CHECK(Error(Code::usage, "x found", "y", "do z").what() == std::string("x found; needed: y. Next: do z"));
    CHECK(Error(Code::usage, "x found", "y", "do z").needed() == "y");
    CHECK(!std::string(Status(Code::usage, nullptr, nullptr, nullptr).message()).empty());
    CHECK(Status(Code::usage, "x", nullptr, "z").message() == std::string("x. Next: z"));
    CHECK(Status(Code::usage, "x", "y", nullptr).message() == std::string("x; needed: y"));

    const std::size_t rest = std::string("; needed: y. Next: z").size();
    const std::string fits(Status::kMaxLength - rest, 'a');
    CHECK(Status(Code::usage, fits.c_str(), "y", "z").message() == fits + "; needed: y. Next: z");
    const std::string longer = Status(Code::usage, (fits + 'a').c_str(), "y", "z").message();
    CHECK(longer == (fits + "a; needed: y. Next: z").substr(0, Status::kMaxLength - 3) + "...");
    for (std::size_t before = 0; before < 4; ++before) {
        const std::string wide = std::string(before, 'a') + repeated("\xF0\x9F\x98\x80", 200);
        const std::string cut = Status(Code::usage, wide.c_str(), "y", "z").message();
        CHECK(cut.size() <= Status::kMaxLength && cut.size() > Status::kMaxLength - 4);
        CHECK((cut.size() - 3 - before) % 4 == 0);
        CHECK(cut.substr(cut.size() - 3) == "...");
    }
}

}  // namespace

int main()
{
    test_values();
    test_numbers();
    test_texts();
    test_grammar();
    test_limits();
    test_every_truncation();
    test_equality();
    test_fields();
    test_quoted();
    test_status();
    return check::report();
}
