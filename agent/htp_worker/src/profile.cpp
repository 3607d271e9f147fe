#include "profile.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace mobifarm {
namespace {

constexpr char kRun[] = "Accelerator (execute) time (cycles)";

bool starts_with(const std::string& text, const std::string& start) { return text.rfind(start, 0) == 0; }
bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// The fields of a line of CSV; a field in quotes may hold commas.
std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') quoted = !quoted;
    else if (c == ',' && !quoted) fields.emplace_back();
    else if (c != '\r') fields.back() += c;
  }
  return fields;
}

void read_cycles(const std::filesystem::path& profile, Traced& traced) {
  std::ifstream stream(profile);
  std::string line;
  if (!std::getline(stream, line)) return;
  const std::vector<std::string> columns = fields_of(line);
  std::set<std::string> operators;
  while (std::getline(stream, line)) {
    const std::vector<std::string> fields = fields_of(line);
    std::map<std::string, std::string> row;
    for (std::size_t i = 0; i < std::min(columns.size(), fields.size()); ++i) row[columns[i]] = fields[i];
    const std::string& time = row["Time"];
    std::uint64_t cycles = 0;
    const auto [end, error] = std::from_chars(time.data(), time.data() + time.size(), cycles);
    if (row["Unit of Measurement"] != "CYCLES" || error != std::errc() || end != time.data() + time.size()) continue;
    if (row["Message"] == "NODE") operators.insert(row["Event Identifier"]);
    else if (starts_with(row["Event Identifier"], kRun)) traced.cycles = cycles;
  }
  traced.on_accelerator = operators.size();
}

}  // namespace

Traced read_profile(const std::filesystem::path& profile, const std::filesystem::path& trace) {
  Traced traced;
  read_cycles(profile, traced);
  std::ifstream stream(trace);
  for (const nlohmann::json& event : nlohmann::json::parse(stream)) {
    if (!event.is_object() || !ends_with(event.value("name", ""), "_kernel_time")) continue;
    const std::string provider = event.value(nlohmann::json::json_pointer("/args/provider"), "");
    if (!provider.empty() && provider != kProvider) ++traced.elsewhere;
  }
  return traced;
}

}  // namespace mobifarm
