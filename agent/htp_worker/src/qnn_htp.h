// Graphs on a Qualcomm HTP through ONNX Runtime's QNN plugin, as agent/backends/qnn_htp.py.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "profile.h"
#include "sessions.h"
#include "snapdragon.h"

namespace mobifarm {

// A graph runs on the HTP as a whole or not at all. The libraries libonnxruntime_providers_qnn.so and
// libQnnHtp.so are found as the dynamic linker finds them (LD_LIBRARY_PATH).
class QnnHtpBackend : public Backend {
 public:
  // `folder` is for profiles, and emptied. Throws BackendError where there is no HTP.
  QnnHtpBackend(const Chip& chip, std::filesystem::path folder);
  std::string accelerator() const override;
  void load(const std::string& graph, const char* model, std::size_t size) override;
  Message run(const std::string& graph, const Message& feeds) override;
  Placement placement() const override;
  void close() override;

 private:
  Ort::SessionOptions options(const std::filesystem::path& profile);

  const Chip chip_;
  const std::filesystem::path folder_;
  Ort::Env& environment_;
  Ort::ConstEpDevice device_{nullptr};
  std::string library_;
  Sessions sessions_;
  std::map<std::string, std::filesystem::path> profiles_;  // by graph; a name of a graph is no name of a file
  std::map<std::string, Traced> traced_;
  std::size_t loaded_ = 0;
};

}  // namespace mobifarm
