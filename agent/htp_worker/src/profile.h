// What QNN's profile and ONNX Runtime's trace tell about where a graph ran.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace mobifarm {

constexpr char kProvider[] = "QNNExecutionProvider";  // as ONNX Runtime calls the plugin

// Of one run of a graph.
struct Traced {
  std::uint64_t on_accelerator = 0;  // operators of the graph as the HTP ran it
  std::uint64_t elsewhere = 0;       // operators that ONNX Runtime ran on another provider
  std::optional<std::uint64_t> cycles;
};

// Reads `profile` (CSV of QNN) and `trace` (JSON of ONNX Runtime); what is not there counts as nothing.
// Throws nlohmann::json::exception where the trace is none.
Traced read_profile(const std::filesystem::path& profile, const std::filesystem::path& trace);

}  // namespace mobifarm
