// The reference: ONNX Runtime's CPU provider, as agent/backends/cpu.py.
#pragma once

#include "sessions.h"

namespace mobifarm {

// What a quantised graph says is computed as it stands: operators are not fused, so that every rounding of the
// graph takes place.
class CpuBackend : public Backend {
 public:
  CpuBackend() { open_onnx_runtime(); }
  std::string accelerator() const override { return "cpu"; }
  void load(const std::string& graph, const char* model, std::size_t size) override;
  Message run(const std::string& graph, const Message& feeds) override { return sessions_.run(graph, feeds); }
  Placement placement() const override { return {0, 0, std::nullopt, "no accelerator"}; }
  void close() override { sessions_.clear(); }

 private:
  Sessions sessions_;
};

}  // namespace mobifarm
