#include "cpu.h"

namespace mobifarm {

void CpuBackend::load(const std::string& graph, const char* model, std::size_t size) {
  try {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    options.SetGraphOptimizationLevel(ORT_DISABLE_ALL);
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    sessions_.open(graph, model, size, options);
  } catch (const Ort::Exception& error) {
    throw BackendError("the graph " + first_line(graph, 40) + " cannot be opened: " + first_line(error.what()));
  }
}

}  // namespace mobifarm
