#include "json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime::json {
namespace {

constexpr std::size_t kQuotedLength = 80;

bool is_continuation(char byte) noexcept
{
    return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U;
}

// The bytes of the character of several at the start of `text`; 0 where it is none (Unicode, table 3-7).
std::size_t utf8_length(std::string_view text) noexcept
{
    const auto byte = [&](std::size_t index) -> unsigned {
        return index < text.size() ? static_cast<unsigned char>(text[index]) : 0U;
    };
    const unsigned first = byte(0);
    const unsigned second = byte(1);
    const auto goes_on = [&](std::size_t index) { return (byte(index) & 0xC0U) == 0x80U; };
    if (first >= 0xC2 && first <= 0xDF) {
        return goes_on(1) ? 2 : 0;
    }
    if (first >= 0xE0 && first <= 0xEF) {
        const bool shortest = first != 0xE0 || second >= 0xA0;
        const bool no_surrogate = first != 0xED || second <= 0x9F;
        return goes_on(1) && goes_on(2) && shortest && no_surrogate ? 3 : 0;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        const bool shortest = first != 0xF0 || second >= 0x90;
        const bool in_unicode = first != 0xF4 || second <= 0x8F;
        return goes_on(1) && goes_on(2) && goes_on(3) && shortest && in_unicode ? 4 : 0;
    }
    return 0;
}

void append_utf8(std::string& text, uint32_t point)
{
    const auto add = [&](uint32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (point < 0x80) {
        add(point);
    } else if (point < 0x800) {
        add(0xC0U | (point >> 6));
        add(0x80U | (point & 0x3FU));
    } else if (point < 0x10000) {
        add(0xE0U | (point >> 12));
        add(0x80U | ((point >> 6) & 0x3FU));
        add(0x80U | (point & 0x3FU));
    } else {
        add(0xF0U | (point >> 18));
        add(0x80U | ((point >> 12) & 0x3FU));
        add(0x80U | ((point >> 6) & 0x3FU));
        add(0x80U | (point & 0x3FU));
    }
}

// Whether the character at `index` is one of C0, DEL or C1; line breaks and tabulators are not counted.
bool is_control(std::string_view text, std::size_t index) noexcept
{
    const auto byte = static_cast<unsigned char>(text[index]);
    if (byte == 0xC2 && index + 1 < text.size()) {
        const auto next = static_cast<unsigned char>(text[index + 1]);
        return next >= 0x80 && next <= 0x9F;
    }
    return (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F;
}

class Parser {
public:
    Parser(std::string_view text, const std::string& name, const std::string& next_step)
        : text_(text), name_(name), next_step_(next_step)
    {
    }

    Value whole()
    {
        if (text_.size() > kMaxBytes) {
            throw Error(Code::bad_input, name_ + " has " + std::to_string(text_.size()) + " bytes",
                "at most " + std::to_string(kMaxBytes), next_step_);
        }
        Value read = value(0);
        skip_space();
        if (at_ != text_.size()) {
            fail("something after its end");
        }
        return read;
    }

private:
    [[noreturn]] void fail(const char* why) const
    {
        const std::string_view before = text_.substr(0, at_);
        const auto line = std::count(before.begin(), before.end(), '\n') + 1;
        const std::size_t last_break = before.rfind('\n');
        const std::size_t column = at_ - (last_break == std::string_view::npos ? 0 : last_break + 1) + 1;
        const std::string where = "line " + std::to_string(line) + ", column " + std::to_string(column);
        throw Error(
            Code::bad_input, name_ + " is no JSON (" + where + ": " + why + ")", "a whole JSON document", next_step_);
    }

    // '\0' at the end, which no token begins with.
    char peek() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }

    bool take(char wanted) noexcept
    {
        const bool found = at_ < text_.size() && text_[at_] == wanted;
        at_ += found ? 1 : 0;
        return found;
    }

    void skip_space() noexcept
    {
        at_ = std::min(text_.find_first_not_of(" \n\r\t", at_), text_.size());
    }

    Value value(std::size_t depth)
    {
        skip_space();
        if (++values_ > kMaxValues) {
            fail("more values than such a document has");
        }
        switch (peek()) {
        case '{': return object(depth + 1);
        case '[': return list(depth + 1);
        case '"': return Value(string());
        case 't': return word("true", Value(true));
        case 'f': return word("false", Value(false));
        case 'n': return word("null", Value());
        default: return number();
        }
    }

    Value word(std::string_view letters, Value meaning)
    {
        if (text_.substr(at_, letters.size()) != letters) {
            fail("a word that is none of true, false and null");
        }
        at_ += letters.size();
        return meaning;
    }

    void enter(std::size_t depth)
    {
        if (depth > kMaxDepth) {
            fail("lists and objects deeper than such a document has");
        }
        ++at_;
        skip_space();
    }

    // Whether another entry follows; false where `closing` was taken.
    bool goes_on(char closing)
    {
        skip_space();
        if (take(closing)) {
            return false;
        }
        if (!take(',')) {
            fail(closing == ']' ? "neither ',' nor ']' after an entry" : "neither ',' nor '}' after an entry");
        }
        return true;
    }

    Value list(std::size_t depth)
    {
        enter(depth);
        Value::List items;
        if (!take(']')) {
            do {
                items.push_back(value(depth));
            } while (goes_on(']'));
        }
        return Value(std::move(items));
    }

    Value object(std::size_t depth)
    {
        enter(depth);
        Value::Object members;
        if (!take('}')) {
            do {
                skip_space();
                if (peek() != '"') {
                    fail("no name where an object's next one stands");
                }
                std::string name = string();
                skip_space();
                if (!take(':')) {
                    fail("no ':' after a name");
                }
                members.push_back({std::move(name), value(depth)});
            } while (goes_on('}'));
        }
        std::sort(members.begin(), members.end(),
            [](const Value::Member& one, const Value::Member& other) { return one.name < other.name; });
        const auto twice = std::adjacent_find(members.begin(), members.end(),
            [](const Value::Member& one, const Value::Member& other) { return one.name == other.name; });
        if (twice != members.end()) {
            fail("an object with the same name twice");
        }
        return Value(std::move(members));
    }

    std::string string()
    {
        ++at_;  // the quotation mark
        std::string read;
        while (true) {
            const std::size_t start = at_;
            while (at_ < text_.size() && is_ordinary(text_[at_])) {
                ++at_;
            }
            read.append(text_, start, at_ - start);
            if (at_ == text_.size()) {
                fail("a text without an end");
            }
            if (take('"')) {
                return read;
            }
            if (peek() == '\\') {
                escape(read);
            } else if (const std::size_t length = utf8_length(text_.substr(at_)); length > 0) {
                read.append(text_, at_, length);
                at_ += length;
            } else {
                fail(static_cast<unsigned char>(text_[at_]) < 0x20 ? "a control character in a text"
                                                                   : "bytes that are no UTF-8");
            }
        }
    }

    static bool is_ordinary(char letter) noexcept
    {
        const auto byte = static_cast<unsigned char>(letter);
        return byte >= 0x20 && byte < 0x80 && letter != '"' && letter != '\\';
    }

    void escape(std::string& read)
    {
        ++at_;  // the backslash
        const char letter = peek();
        static constexpr std::string_view kLetters = "\"\\/bfnrt";
        static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
        if (const std::size_t index = kLetters.find(letter); index != std::string_view::npos) {
            ++at_;
            read += kMeanings[index];
            return;
        }
        if (letter != 'u') {
            fail("an escape that is none");
        }
        uint32_t point = code_unit();
        if (point >= 0xD800 && point <= 0xDFFF) {
            const bool another = point < 0xDC00 && text_.substr(at_, 2) == "\\u";
            at_ += another ? 1 : 0;
            const uint32_t second = another ? code_unit() : 0;
            if (second < 0xDC00 || second > 0xDFFF) {
                fail("half of a surrogate pair");
            }
            point = 0x10000 + ((point - 0xD800) << 10) + (second - 0xDC00);
        }
        append_utf8(read, point);
    }

    // Of "uXXXX".
    uint32_t code_unit()
    {
        const std::string_view digits = text_.substr(std::min(at_ + 1, text_.size()), 4);
        uint32_t unit = 0;
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), unit, 16);
        if (digits.size() != 4 || error != std::errc() || end != digits.data() + digits.size()) {
            fail("\\u without four hexadecimal digits");
        }
        at_ += 5;
        return unit;
    }

    std::size_t take_digits() noexcept
    {
        const std::size_t start = at_;
        while (peek() >= '0' && peek() <= '9') {
            ++at_;
        }
        return at_ - start;
    }

    Value number()
    {
        const std::size_t start = at_;
        take('-');
        const char first = peek();
        const std::size_t digits = take_digits();
        if (digits == 0) {
            fail(at_ == text_.size() ? "its end where a value is needed" : "no value where one is needed");
        }
        if (digits > 1 && first == '0') {
            fail("a number that begins with 0");
        }
        bool whole = true;
        if (take('.')) {
            whole = false;
            if (take_digits() == 0) {
                fail("no digit after a decimal point");
            }
        }
        if (take('e') || take('E')) {
            whole = false;
            if (!take('+')) {
                take('-');
            }
            if (take_digits() == 0) {
                fail("no digit in an exponent");
            }
        }
        if (at_ - start > kMaxNumberLength) {
            fail("a number of too many digits");
        }
        const char* begin = text_.data() + start;
        const char* end = text_.data() + at_;
        if (int64_t integer = 0; whole && std::from_chars(begin, end, integer).ec == std::errc()) {
            return Value(integer);
        }
        double real = 0;
        if (std::from_chars(begin, end, real).ec != std::errc() || !std::isfinite(real)) {
            fail("a number beyond double precision");
        }
        return Value(real);
    }

    std::string_view text_;
    const std::string& name_;
    const std::string& next_step_;
    std::size_t at_ = 0;
    std::size_t values_ = 0;
};

bool same_number(int64_t integer, double number) noexcept
{
    // 2^63 is the first double that no int64 holds.
    return number >= -9223372036854775808.0 && number < 9223372036854775808.0 && std::trunc(number) == number
        && static_cast<int64_t>(number) == integer;
}

}  // namespace

Value::Value(List list) noexcept : held_(std::move(list)) {}
Value::Value(Object members) noexcept : held_(std::move(members)) {}

const Value* Value::find(std::string_view name) const noexcept
{
    const Object* members = object();
    if (members == nullptr) {
        return nullptr;
    }
    const auto found = std::lower_bound(members->begin(), members->end(), name,
        [](const Member& member, std::string_view wanted) { return member.name < wanted; });
    return found != members->end() && found->name == name ? &found->value : nullptr;
}

std::string Value::described() const
{
    if (flag() != nullptr) {
        return *flag() ? "true" : "false";
    }
    if (integer() != nullptr) {
        return std::to_string(*integer());
    }
    if (number() != nullptr) {
        std::array<char, 32> digits{};
        const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), *number());
        const std::string shortest(digits.data(), written.ptr);
        return shortest.find_first_not_of("-0123456789") == std::string::npos ? shortest + ".0" : shortest;
    }
    if (text() != nullptr) {
        return quoted(*text());
    }
    if (list() != nullptr) {
        return list()->empty() ? "an empty list" : "a list of " + std::to_string(list()->size());
    }
    return object() != nullptr ? "an object" : "null";
}

bool equal(const Value& one, const Value& other) noexcept
{
    if (const int64_t* integer = one.integer()) {
        return other.integer() != nullptr ? *integer == *other.integer()
                                          : other.number() != nullptr && same_number(*integer, *other.number());
    }
    if (const double* number = one.number()) {
        return other.number() != nullptr ? *number == *other.number()
                                         : other.integer() != nullptr && same_number(*other.integer(), *number);
    }
    if (one.flag() != nullptr) {
        return other.flag() != nullptr && *one.flag() == *other.flag();
    }
    if (one.text() != nullptr) {
        return other.text() != nullptr && *one.text() == *other.text();
    }
    if (const Value::List* items = one.list()) {
        return other.list() != nullptr
            && std::equal(items->begin(), items->end(), other.list()->begin(), other.list()->end(), equal);
    }
    if (const Value::Object* members = one.object()) {
        return other.object() != nullptr
            && std::equal(members->begin(), members->end(), other.object()->begin(), other.object()->end(),
                [](const Value::Member& left, const Value::Member& right) {
                    return left.name == right.name && equal(left.value, right.value);
                });
    }
    return other.is_null();
}

std::string quoted(std::string_view text)
{
    static constexpr char kDigits[] = "0123456789abcdef";
    const bool cut = text.size() > kQuotedLength;
    if (cut) {
        std::size_t length = kQuotedLength;
        while (length > 0 && is_continuation(text[length])) {
            --length;
        }
        text = text.substr(0, length);
    }
    std::string safe = "'";
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        if (byte == '\n' || byte == '\t') {
            safe += byte == '\n' ? "\\n" : "\\t";
        } else if (is_control(text, i)) {
            const bool two_bytes = byte == 0xC2;  // U+0080 to U+009F, whose second byte is the code point
            const unsigned point = two_bytes ? static_cast<unsigned char>(text[++i]) : byte;
            safe += "\\x";
            safe += kDigits[point >> 4];
            safe += kDigits[point & 15U];
        } else {
            safe += text[i];
        }
    }
    return safe + (cut ? "...'" : "'");
}

bool is_printable(std::string_view utf8) noexcept
{
    for (std::size_t i = 0; i < utf8.size(); ++i) {
        if (is_control(utf8, i)) {
            return false;
        }
    }
    return true;
}

Value parse(std::string_view text, const std::string& name, const std::string& next_step)
{
    return Parser(text, name, next_step).whole();
}

Document::Document(std::string name, std::string next_step, std::string_view text)
    : name_(std::move(name)), next_step_(std::move(next_step)), value_(parse(text, name_, next_step_))
{
}

Field::Field(const Document& document, const Value& value, std::string path)
    : document_(&document), value_(&value), path_(std::move(path))
{
}

std::string Field::path_of(std::string_view member) const
{
    return path_.empty() ? std::string(member) : path_ + '.' + std::string(member);
}

void Field::refuse(std::string needed) const
{
    const std::string where = path_.empty() ? document_->name() : document_->name() + ": " + quoted(path_);
    throw Error(Code::bad_input, where + " is " + value_->described(), std::move(needed), document_->next_step());
}

const Value::Object& Field::members() const
{
    if (value_->object() == nullptr) {
        refuse("an object");
    }
    return *value_->object();
}

std::optional<Field> Field::find(std::string_view name) const
{
    static_cast<void>(members());
    const Value* found = value_->find(name);
    if (found == nullptr) {
        return std::nullopt;
    }
    return Field(*document_, *found, path_of(name));
}

Field Field::operator[](std::string_view name) const
{
    std::optional<Field> found = find(name);
    if (!found) {
        throw Error(Code::bad_input, document_->name() + " has no field " + quoted(path_of(name)),
            "a document as qdbev-deploy build writes it", document_->next_step());
    }
    return *std::move(found);
}

std::size_t Field::length() const
{
    if (value_->list() == nullptr) {
        refuse("a list");
    }
    return value_->list()->size();
}

void Field::require_length(std::size_t length) const
{
    if (value_->list() == nullptr || value_->list()->size() != length) {
        refuse(length == 0 ? "an empty list" : "a list of " + std::to_string(length));
    }
}

Field Field::operator[](std::size_t index) const
{
    if (index >= length()) {
        refuse("a list of more than " + std::to_string(index));
    }
    return {*document_, (*value_->list())[index], path_ + '[' + std::to_string(index) + ']'};
}

const std::string& Field::string() const
{
    if (value_->text() == nullptr) {
        refuse("a text");
    }
    return *value_->text();
}

const std::string& Field::text() const
{
    if (!is_printable(string())) {
        refuse("a text without control characters");
    }
    return *value_->text();
}

bool Field::flag() const
{
    if (value_->flag() == nullptr) {
        refuse("true or false");
    }
    return *value_->flag();
}

int64_t Field::integer(int64_t low, int64_t high) const
{
    const int64_t* found = value_->integer();
    if (found == nullptr || *found < low || *found > high) {
        using Limits = std::numeric_limits<int64_t>;
        const std::string least = "a whole number of at least " + std::to_string(low);
        refuse(high != Limits::max() ? "a whole number from " + std::to_string(low) + " to " + std::to_string(high)
            : low == Limits::min() ? "a whole number of 64 bits" : least);
    }
    return *found;
}

double Field::number() const
{
    if (value_->integer() != nullptr) {
        return static_cast<double>(*value_->integer());
    }
    if (value_->number() == nullptr) {
        refuse("a number");
    }
    return *value_->number();
}

void Field::require(const Value& wanted) const
{
    if (const Value::Object* parts = wanted.object()) {
        for (const Value::Member& part : *parts) {
            (*this)[part.name].require(part.value);
        }
        for (const Value::Member& member : members()) {
            if (wanted.find(member.name) == nullptr) {
                (*this)[member.name].refuse("no such field");
            }
        }
    } else if (const Value::List* items = wanted.list()) {
        require_length(items->size());
        for (std::size_t i = 0; i < items->size(); ++i) {
            (*this)[i].require((*items)[i]);
        }
    } else if (!equal(*value_, wanted)) {
        refuse(wanted.described());
    }
}

}  // namespace qdbev::runtime::json
