// ONNX Runtime's sessions by the name of their graph, for both backends.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "interface.h"

namespace mobifarm {

// Makes ONNX Runtime ready for this process and opens its environment, which lasts as long as the process.
// Throws BackendError where the library is too old.
Ort::Env& open_onnx_runtime();

class Sessions {
 public:
  // Opens a model in place of one that has the name; throws Ort::Exception.
  void open(const std::string& graph, const char* model, std::size_t size, const Ort::SessionOptions& options);
  // All outputs of a graph; throws BackendError.
  Message run(const std::string& graph, const Message& feeds);
  // Ends the profiling of a graph that is open; the name of the file with the trace.
  std::string end_profiling(const std::string& graph);
  // Closes all graphs.
  void clear() { opened_.clear(); }

 private:
  struct Opened {
    Ort::Session session;
    std::vector<std::string> inputs, outputs;
  };
  std::map<std::string, Opened> opened_;
};

}  // namespace mobifarm
