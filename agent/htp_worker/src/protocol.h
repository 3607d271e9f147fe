// Messages between agent and worker, as agent/backends/protocol.py, which tells their form.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace mobifarm {

constexpr int kProtocolVersion = 1;

// The other side sent what is no message.
class ProtocolError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The other side closed the connection between two messages.
class Closed : public std::exception {};

struct ElementType {
  const char* name;  // as numpy calls it
  std::size_t size;  // bytes
};

// The element type of that name; nullptr where the protocol carries none such.
const ElementType* element_type(const std::string& name);

// One array of a message; its bytes lie in the message's body.
struct Array {
  std::string name;
  const ElementType* type;
  std::vector<std::int64_t> shape;
  std::size_t start;  // in the body
  std::size_t size;   // bytes
};

struct Message {
  nlohmann::json fields = nlohmann::json::object();  // of the header, without "arrays"
  std::vector<Array> arrays;
  std::string body;

  const Array* find(const std::string& name) const;
  // Appends an array of `size` bytes.
  void add(std::string name, const ElementType& type, std::vector<std::int64_t> shape, const void* data,
           std::size_t size);
};

// Receives a message from a stream socket; throws Closed, ProtocolError or std::system_error.
Message receive(int connection);

// Sends a message; throws std::system_error.
void send(int connection, const Message& message);

}  // namespace mobifarm
