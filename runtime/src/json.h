// A strict JSON reader (RFC 8259): documents as values, and fields that say which one they are when they are refused.
//
// Refused beyond the grammar: names that come twice, text that is no UTF-8, numbers beyond double precision, and what
// is deeper, longer or of more values than any document of ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace qdbev::runtime::json {

inline constexpr std::size_t kMaxBytes = std::size_t{256} << 20;
inline constexpr std::size_t kMaxValues = std::size_t{4} << 20;  // some ten times the layers of a large network
inline constexpr std::size_t kMaxDepth = 64;
inline constexpr std::size_t kMaxNumberLength = 512;

class Value {
public:
    struct Member;
    using List = std::vector<Value>;
    using Object = std::vector<Member>;  // by rising name

    Value() noexcept = default;  // null
    explicit Value(bool flag) noexcept : held_(flag) {}
    explicit Value(int64_t integer) noexcept : held_(integer) {}
    explicit Value(double number) noexcept : held_(number) {}
    explicit Value(std::string text) noexcept : held_(std::move(text)) {}
    explicit Value(const char*) = delete;  // would be a flag
    explicit Value(List list) noexcept;
    explicit Value(Object members) noexcept;  // sorted, and no name twice

    bool is_null() const noexcept { return std::holds_alternative<std::monostate>(held_); }

    // nullptr where it is something else.
    const bool* flag() const noexcept { return std::get_if<bool>(&held_); }
    const int64_t* integer() const noexcept { return std::get_if<int64_t>(&held_); }
    const double* number() const noexcept { return std::get_if<double>(&held_); }  // of a fraction, or beyond int64
    const std::string* text() const noexcept { return std::get_if<std::string>(&held_); }
    const List* list() const noexcept { return std::get_if<List>(&held_); }
    const Object* object() const noexcept { return std::get_if<Object>(&held_); }

    // The member of that name; nullptr where there is none, or where it is no object.
    const Value* find(std::string_view name) const noexcept;

    // For a sentence: "null", "12", "'some text'", "a list of 3".
    std::string described() const;

private:
    std::variant<std::monostate, bool, int64_t, double, std::string, List, Object> held_;
};

struct Value::Member {
    std::string name;
    Value value;
};

// 1 and 1.0 are equal, 1 and true are not.
bool equal(const Value& one, const Value& other) noexcept;

// Text of unknown origin for a sentence: quoted, cut where it is long, without what a terminal would obey.
std::string quoted(std::string_view text);

// Whether a terminal obeys nothing in it; line breaks and tabulators may be.
bool is_printable(std::string_view utf8) noexcept;

class Document;

// A value of a document and where it stands there. What is not as it is asked for throws an Error (bad_input) that
// names the document and the field. Not to outlive its document.
class Field {
public:
    const Value& value() const noexcept { return *value_; }
    const Document& document() const noexcept { return *document_; }

    Field operator[](std::string_view name) const;  // of an object
    Field operator[](std::size_t index) const;      // of a list that has it
    std::optional<Field> find(std::string_view name) const;
    const Value::Object& members() const;
    std::size_t length() const;  // of a list
    void require_length(std::size_t length) const;

    const std::string& string() const;  // any text, and
    const std::string& text() const;    // what may be printed
    bool flag() const;
    int64_t integer(int64_t low, int64_t high) const;
    double number() const;  // also of an integer; finite

    // "DOCUMENT: 'PATH' is VALUE; needed: NEEDED."
    [[noreturn]] void refuse(std::string needed) const;

    // It is `wanted`, in all its depth; the first difference is named.
    void require(const Value& wanted) const;

private:
    friend class Document;
    Field(const Document& document, const Value& value, std::string path);

    std::string path_of(std::string_view member) const;

    const Document* document_;
    const Value* value_;
    std::string path_;  // empty: the document itself
};

class Document {
public:
    // Reads `text`. `name` and `next_step` are for sentences: "student.qdbev: manifest.json", "copy the bundle again".
    Document(std::string name, std::string next_step, std::string_view text);
    Document(const Document&) = delete;  // fields point into it
    Document& operator=(const Document&) = delete;

    Field root() const { return {*this, value_, ""}; }
    const std::string& name() const noexcept { return name_; }
    const std::string& next_step() const noexcept { return next_step_; }

private:
    std::string name_, next_step_;
    Value value_;
};

// The value of a text. Throws Error: "NAME is no JSON (line 3, column 7: WHY)".
Value parse(std::string_view text, const std::string& name, const std::string& next_step);

}  // namespace qdbev::runtime::json
