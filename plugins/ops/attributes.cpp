#include "qdbev/attributes.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "qdbev/version.h"

namespace qdbev {

namespace {

constexpr uint32_t kMagic = 0x56424451U;  // "QDBV"
constexpr int32_t kMaxListLength = 64;

uint32_t fnv1a(const void* data, size_t size, uint32_t hash = 2166136261U)
{
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) {
        hash = (hash ^ bytes[i]) * 16777619U;
    }
    return hash;
}

void put(unsigned char*& to, const void* from, size_t size)
{
    if (size != 0) {
        std::memcpy(to, from, size);
    }
    to += size;
}

class Reader {
public:
    Reader(const void* data, size_t size) : at_(static_cast<const unsigned char*>(data)), left_(size) {}

    bool take(void* to, size_t size)
    {
        if (size > left_) {
            return false;
        }
        if (size != 0) {
            std::memcpy(to, at_, size);
        }
        at_ += size;
        left_ -= size;
        return true;
    }
    size_t left() const { return left_; }

private:
    const unsigned char* at_;
    size_t left_;
};

struct Header {
    uint32_t magic;
    uint32_t abi;
    uint32_t op;        // hash of the op's name
    uint32_t size;      // of everything, header included
    uint32_t checksum;  // of what follows the header
};

}  // namespace

const char* kind_name(FieldKind kind)
{
    switch (kind) {
    case FieldKind::kInt: return "int";
    case FieldKind::kInts: return "ints";
    case FieldKind::kFloat: return "float";
    case FieldKind::kFloats: break;
    }
    return "floats";
}

Attributes::Attributes(const char* op_name, const FieldSpec* specs, int32_t count)
    : op_name_(op_name), specs_(specs), count_(count), values_(static_cast<size_t>(count))
{
}

void Attributes::refuse(const std::string& sentence) const
{
    throw Refusal(std::string(op_name_) + ": " + sentence);
}

Attributes::Value& Attributes::slot(const char* name, bool floats, int32_t count)
{
    if (name == nullptr) {
        refuse("a field has no name.");
    }
    const std::string quoted = "field '" + std::string(name) + "'";
    for (int32_t i = 0; i < count_; ++i) {
        if (std::strcmp(specs_[i].name, name) != 0) {
            continue;
        }
        Value& value = values_[static_cast<size_t>(i)];
        if (value.set) {
            refuse(quoted + " was given twice.");
        }
        if (specs_[i].is_float() != floats) {
            refuse(quoted + " was given as " + (floats ? "floats" : "integers") + " but is of kind "
                + kind_name(specs_[i].kind) + ".");
        }
        if (count < 1 || count > kMaxListLength || (!specs_[i].is_list() && count != 1)) {
            refuse(quoted + " holds " + std::to_string(count) + " numbers; "
                + (specs_[i].is_list() ? "1 to " + std::to_string(kMaxListLength) + " are possible." : "one is needed."));
        }
        value.set = true;
        return value;
    }
    std::string known;
    for (int32_t i = 0; i < count_; ++i) {
        known += (i == 0 ? "" : ", ") + std::string(specs_[i].name);
    }
    refuse(quoted + " is unknown. The fields are " + known + ".");
}

void Attributes::set_ints(const char* name, const int64_t* values, int32_t count)
{
    Value& value = slot(name, false, count);
    for (int32_t i = 0; i < count; ++i) {
        if (values[i] < std::numeric_limits<int32_t>::min() || values[i] > std::numeric_limits<int32_t>::max()) {
            refuse("field '" + std::string(name) + "' holds " + std::to_string(values[i]) + ", which needs over 32 bits.");
        }
        value.ints.push_back(static_cast<int32_t>(values[i]));
    }
}

void Attributes::set_floats(const char* name, const double* values, int32_t count)
{
    Value& value = slot(name, true, count);
    for (int32_t i = 0; i < count; ++i) {
        const auto narrowed = static_cast<float>(values[i]);
        if (!std::isfinite(narrowed)) {
            refuse("field '" + std::string(name) + "' holds a number that is not finite.");
        }
        value.floats.push_back(narrowed);
    }
}

void Attributes::finish()
{
    for (int32_t i = 0; i < count_; ++i) {
        Value& value = values_[static_cast<size_t>(i)];
        if (value.set) {
            continue;
        }
        if (specs_[i].required) {
            refuse("field '" + std::string(specs_[i].name) + "' is missing.");
        }
        value.set = true;
        if (specs_[i].is_float()) {
            value.floats.assign(1, 0.0F);
        } else {
            value.ints.assign(1, 0);
        }
    }
}

const Attributes::Value& Attributes::get(const char* name, bool floats) const
{
    for (int32_t i = 0; i < count_; ++i) {
        if (std::strcmp(specs_[i].name, name) == 0 && specs_[i].is_float() == floats) {
            return values_[static_cast<size_t>(i)];
        }
    }
    throw std::logic_error(std::string(op_name_) + " has no field " + name);
}

const std::vector<int32_t>& Attributes::ints(const char* name) const
{
    return get(name, false).ints;
}

const std::vector<float>& Attributes::floats(const char* name) const
{
    return get(name, true).floats;
}

int32_t Attributes::int_value(const char* name) const
{
    return ints(name).at(0);
}

float Attributes::float_value(const char* name) const
{
    return floats(name).at(0);
}

size_t Attributes::serialised_size() const
{
    size_t size = sizeof(Header);
    for (const Value& value : values_) {
        size += sizeof(uint32_t) + 4U * (value.ints.size() + value.floats.size());
    }
    return size;
}

void Attributes::serialise(void* buffer) const
{
    auto* const begin = static_cast<unsigned char*>(buffer);
    unsigned char* to = begin + sizeof(Header);
    for (const Value& value : values_) {  // one of the two lists is empty
        const auto count = static_cast<uint32_t>(value.ints.size() + value.floats.size());
        put(to, &count, sizeof count);
        put(to, value.ints.data(), 4U * value.ints.size());
        put(to, value.floats.data(), 4U * value.floats.size());
    }
    const size_t size = serialised_size();
    const Header header{kMagic, QDBEV_ABI, fnv1a(op_name_, std::strlen(op_name_)), static_cast<uint32_t>(size),
        fnv1a(begin + sizeof(Header), size - sizeof(Header))};
    std::memcpy(begin, &header, sizeof header);
}

Attributes Attributes::parse(const char* op_name, const FieldSpec* specs, int32_t count, const void* data, size_t size)
{
    Attributes result(op_name, specs, count);
    Reader reader(data, data == nullptr ? 0 : size);
    Header header{};
    if (!reader.take(&header, sizeof header) || header.magic != kMagic) {
        result.refuse("the plan's data for this plugin was not written by it. Build the engine again.");
    }
    if (header.abi != QDBEV_ABI) {
        result.refuse("the plan was built with ABI " + std::to_string(header.abi) + " of this plugin library and this is ABI "
            + std::to_string(QDBEV_ABI) + ". Build the engine again, or load the library that it was built with.");
    }
    if (header.op != fnv1a(op_name, std::strlen(op_name))) {
        result.refuse("the plan's data belongs to another op.");
    }
    const auto* payload = static_cast<const unsigned char*>(data) + sizeof header;
    if (header.size != size || header.checksum != fnv1a(payload, size - sizeof header)) {
        result.refuse("the plan's data for this plugin is truncated or damaged (" + std::to_string(size) + " bytes of "
            + std::to_string(header.size) + "). Copy the plan again or build it again.");
    }
    for (int32_t i = 0; i < count; ++i) {
        uint32_t length = 0;
        // The length is held against what is left before anything of that size is allocated.
        if (!reader.take(&length, sizeof length) || length > reader.left() / 4U) {
            result.refuse("the plan's data for this plugin ends within field '" + std::string(specs[i].name) + "'.");
        }
        std::vector<int32_t> ints(specs[i].is_float() ? 0U : length);
        std::vector<float> floats(specs[i].is_float() ? length : 0U);
        reader.take(specs[i].is_float() ? static_cast<void*>(floats.data()) : static_cast<void*>(ints.data()), 4U * length);
        if (specs[i].is_float()) {
            const std::vector<double> wide(floats.begin(), floats.end());
            result.set_floats(specs[i].name, wide.data(), static_cast<int32_t>(wide.size()));
        } else {
            const std::vector<int64_t> wide(ints.begin(), ints.end());
            result.set_ints(specs[i].name, wide.data(), static_cast<int32_t>(wide.size()));
        }
    }
    if (reader.left() != 0) {
        result.refuse("the plan's data for this plugin is longer than this op's fields.");
    }
    result.finish();
    return result;
}

}  // namespace qdbev
