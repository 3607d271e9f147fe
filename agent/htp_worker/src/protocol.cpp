#include "protocol.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#include <sys/socket.h>

namespace mobifarm {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lengths and arrays are sent as they lie in memory");

constexpr std::uint32_t kHeaderLimit = 1u << 20;
constexpr std::uint64_t kBodyLimit = std::uint64_t{1} << 31;
constexpr std::size_t kPart = 1u << 20;
constexpr std::size_t kLengths = sizeof(std::uint32_t) + sizeof(std::uint64_t);
constexpr std::size_t kDimensionLimit = 64;  // numpy's
constexpr std::array<ElementType, 4> kTypes{{{"float32", 4}, {"int32", 4}, {"int64", 8}, {"uint8", 1}}};

// Grows as bytes arrive: what a header promises is not allocated on its word alone.
std::string receive_bytes(int connection, std::uint64_t length, bool first) {
  std::string found;
  while (found.size() < length) {
    const std::size_t start = found.size();
    const std::size_t wanted = std::min<std::uint64_t>(length - start, kPart);
    if (found.capacity() < start + wanted) found.reserve(std::min<std::uint64_t>(length, 2 * start + wanted));
    found.resize(start + wanted);
    ssize_t count = 0;
    do {
      count = ::recv(connection, found.data() + start, wanted, 0);
    } while (count < 0 && errno == EINTR);
    if (count < 0) throw std::system_error(errno, std::generic_category(), "the connection broke");
    if (count == 0 && first && start == 0) throw Closed();
    if (count == 0) throw ProtocolError("the connection ended in the middle of a message");
    found.resize(start + static_cast<std::size_t>(count));
  }
  return found;
}

// Bytes of an array of that type and shape; throws where no memory could hold them, were no size of it zero.
std::size_t bytes_of(const ElementType& type, const std::vector<std::int64_t>& shape) {
  if (shape.size() > kDimensionLimit) throw ProtocolError("an array has a shape that cannot be");
  std::int64_t bytes = static_cast<std::int64_t>(type.size);
  for (const std::int64_t size : shape) {
    if (size == 0) continue;
    if (bytes > std::numeric_limits<std::int64_t>::max() / size) {
      throw ProtocolError("an array has a shape that cannot be");
    }
    bytes *= size;
  }
  const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
  return empty ? 0 : static_cast<std::size_t>(bytes);
}

struct Described {
  std::string name, type;
  std::vector<std::int64_t> shape;
};

std::vector<Described> described_arrays(nlohmann::json& fields) {
  std::vector<Described> found;
  for (const nlohmann::json& entry : fields.at("arrays").get_ref<const nlohmann::json::array_t&>()) {
    if (entry.size() != 3) throw ProtocolError("the header of a message cannot be read");
    Described& described = found.emplace_back();
    entry.at(0).get_to(described.name);
    entry.at(1).get_to(described.type);
    for (const nlohmann::json& size : entry.at(2).get_ref<const nlohmann::json::array_t&>()) {
      // A number beyond 64 bits is read as one with a fraction.
      if (!size.is_number_integer() || (size.is_number_unsigned() && size.get<std::uint64_t>() >
                                            std::uint64_t{std::numeric_limits<std::int64_t>::max()})) {
        throw ProtocolError("the header of a message cannot be read");
      }
      described.shape.push_back(size.get<std::int64_t>());
    }
  }
  fields.erase("arrays");
  return found;
}

void send_bytes(int connection, const std::string& bytes) {
  for (std::size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = ::send(connection, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw std::system_error(errno, std::generic_category(), "the connection broke");
    sent += static_cast<std::size_t>(count);
  }
}

}  // namespace

const ElementType* element_type(const std::string& name) {
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& type) { return type.name == name; });
  return found == kTypes.end() ? nullptr : &*found;
}

const Array* Message::find(const std::string& name) const {
  const auto found = std::find_if(arrays.begin(), arrays.end(), [&](const auto& array) { return array.name == name; });
  return found == arrays.end() ? nullptr : &*found;
}

void Message::add(std::string name, const ElementType& type, std::vector<std::int64_t> shape, const void* data,
                  std::size_t size) {
  arrays.push_back({std::move(name), &type, std::move(shape), body.size(), size});
  if (size > 0) body.append(static_cast<const char*>(data), size);
}

Message receive(int connection) {
  const std::string lengths = receive_bytes(connection, kLengths, true);
  std::uint32_t header_length = 0;
  std::uint64_t body_length = 0;
  std::memcpy(&header_length, lengths.data(), sizeof header_length);
  std::memcpy(&body_length, lengths.data() + sizeof header_length, sizeof body_length);
  if (header_length > kHeaderLimit || body_length > kBodyLimit) {
    throw ProtocolError("a message of " + std::to_string(header_length) + " and " + std::to_string(body_length) +
                        " bytes is too long");
  }
  Message message;
  std::vector<Described> described;
  try {
    message.fields = nlohmann::json::parse(receive_bytes(connection, header_length, false));
    described = described_arrays(message.fields);
  } catch (const nlohmann::json::exception&) {
    throw ProtocolError("the header of a message cannot be read");
  }
  message.body = receive_bytes(connection, body_length, false);
  std::size_t start = 0;
  for (Described& array : described) {
    const ElementType* type = element_type(array.type);
    const bool negative = std::any_of(array.shape.begin(), array.shape.end(), [](auto size) { return size < 0; });
    if (type == nullptr || negative) {
      throw ProtocolError("an array of '" + array.type.substr(0, 20) + "' is not understood");
    }
    const std::size_t size = bytes_of(*type, array.shape);
    if (size > body_length - start) throw ProtocolError("a message is shorter than its header says");
    message.arrays.push_back({std::move(array.name), type, std::move(array.shape), start, size});
    start += size;
  }
  if (start != body_length) throw ProtocolError("a message is longer than its header says");
  return message;
}

void send(int connection, const Message& message) {
  nlohmann::json fields = message.fields;
  nlohmann::json& arrays = fields["arrays"] = nlohmann::json::array();
  for (const Array& array : message.arrays) arrays.push_back({array.name, array.type->name, array.shape});
  // Errors may hold bytes that are no UTF-8: they are replaced.
  const std::string header = fields.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  const std::uint32_t header_length = static_cast<std::uint32_t>(header.size());
  const std::uint64_t body_length = message.body.size();
  std::string start(kLengths, '\0');
  std::memcpy(start.data(), &header_length, sizeof header_length);
  std::memcpy(start.data() + sizeof header_length, &body_length, sizeof body_length);
  send_bytes(connection, start + header);
  send_bytes(connection, message.body);
}

}  // namespace mobifarm
