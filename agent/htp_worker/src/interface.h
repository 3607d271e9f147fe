// What runs static graphs, as agent/backends/interface.py.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "protocol.h"

namespace mobifarm {

// The accelerator cannot be used, or failed; what() says why in one sentence.
class BackendError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where the operators of the graphs ran.
struct Placement {
  std::uint64_t operators = 0;       // that ran, of all graphs together
  std::uint64_t on_accelerator = 0;  // of them
  std::optional<std::uint64_t> estimated_cycles;
  std::string proof;  // what the numbers were read from
};

// Every method throws BackendError where it fails.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string accelerator() const = 0;  // cpu, htp_emulator or htp_hardware
  // Opens an ONNX model of `size` bytes under the name `graph`, in place of one that has it, which goes first.
  virtual void load(const std::string& graph, const char* model, std::size_t size) = 0;
  // All outputs of a graph.
  virtual Message run(const std::string& graph, const Message& feeds) = 0;
  // Where the graphs that ran so far ran; of the first run of each.
  virtual Placement placement() const = 0;
  // Gives all graphs back.
  virtual void close() = 0;
};

// At most `length` bytes of the first line of a text, for errors.
std::string first_line(const std::string& text, std::size_t length = 300);

}  // namespace mobifarm
