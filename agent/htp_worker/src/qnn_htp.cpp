#include "qnn_htp.h"

#include <unordered_map>
#include <utility>
#include <vector>

#include <dlfcn.h>

namespace mobifarm {
namespace {

// Where the dynamic linker finds a library that has `symbol`, as a path: ONNX Runtime does not ask the linker.
std::string path_of(const char* library, const char* symbol) {
  void* handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);  // stays open: the worker needs it to its end
  if (handle == nullptr) throw BackendError("the library cannot be loaded: " + first_line(::dlerror()));
  Dl_info found{};
  void* address = ::dlsym(handle, symbol);
  if (address == nullptr || ::dladdr(address, &found) == 0 || found.dli_fname == nullptr) {
    throw BackendError(std::string(library) + " is another library than the HTP needs: it has no " + symbol);
  }
  return std::filesystem::absolute(found.dli_fname);
}

// The plugin writes on after every run; what was read needs no more room.
void discard(const std::filesystem::path& profile) {
  for (const std::filesystem::path& file : {profile, profile.parent_path() / (profile.stem().string() + "_qnn.log")}) {
    std::filesystem::remove(file);
    std::filesystem::create_symlink("/dev/null", file);
  }
}

// The plugin's device: the neural processor where it tells of one (the emulator calls itself a CPU).
Ort::ConstEpDevice device_of(const Ort::Env& environment) {
  Ort::ConstEpDevice found{nullptr};
  for (const Ort::ConstEpDevice& device : environment.GetEpDevices()) {
    if (std::string(device.EpName()) != kProvider) continue;
    if (device.Device().Type() == OrtHardwareDeviceType_NPU) return device;
    if (static_cast<const OrtEpDevice*>(found) == nullptr) found = device;
  }
  if (static_cast<const OrtEpDevice*>(found) == nullptr) throw BackendError("the QNN plugin finds no HTP here");
  return found;
}

}  // namespace

QnnHtpBackend::QnnHtpBackend(const Chip& chip, std::filesystem::path folder)
    : chip_(chip), folder_(std::move(folder)), environment_(open_onnx_runtime()) {
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directories(folder_);
  const std::string plugin = path_of("libonnxruntime_providers_qnn.so", "CreateEpFactories");
  library_ = path_of("libQnnHtp.so", "QnnInterface_getProviders");
  try {
    environment_.RegisterExecutionProviderLibrary(kProvider, plugin);
    device_ = device_of(environment_);
  } catch (const Ort::Exception& error) {
    throw BackendError("the QNN plugin cannot be loaded: " + first_line(error.what()));
  }
}

std::string QnnHtpBackend::accelerator() const {
#if defined(__x86_64__)
  return "htp_emulator";
#else
  return "htp_hardware";
#endif
}

Ort::SessionOptions QnnHtpBackend::options(const std::filesystem::path& profile) {
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  options.AddConfigEntry("session.disable_cpu_ep_fallback", "1");
  options.AppendExecutionProvider_V2(environment_, {device_},
                                     std::unordered_map<std::string, std::string>{
                                         {"backend_path", library_},
                                         {"soc_model", std::to_string(chip_.soc_id)},
                                         {"profiling_level", "detailed"},
                                         {"profiling_file_path", profile.string()},
                                     });
  options.EnableProfiling((profile.string() + "-trace").c_str());
  return options;
}

void QnnHtpBackend::load(const std::string& graph, const char* model, std::size_t size) {
  traced_.erase(graph);
  profiles_.erase(graph);
  const std::filesystem::path profile = folder_ / (std::to_string(++loaded_) + ".csv");
  try {
    sessions_.open(graph, model, size, options(profile));
    profiles_[graph] = profile;
  } catch (const Ort::Exception& error) {
    throw BackendError("the HTP of " + std::string(chip_.model) + " does not take the graph " +
                       first_line(graph, 40) + ": " + first_line(error.what()));
  }
}

Message QnnHtpBackend::run(const std::string& graph, const Message& feeds) {
  Message found = sessions_.run(graph, feeds);
  if (traced_.count(graph) == 0) {
    try {
      const std::filesystem::path trace = sessions_.end_profiling(graph);
      traced_[graph] = read_profile(profiles_.at(graph), trace);
      std::filesystem::remove(trace);
      discard(profiles_.at(graph));
    } catch (const std::exception& error) {
      throw BackendError("where the graph " + first_line(graph, 40) + " ran cannot be read: " +
                         first_line(error.what()));
    }
  }
  return found;
}

Placement QnnHtpBackend::placement() const {
  Placement sum{0, 0, std::nullopt, "the HTP's profile and ONNX Runtime's trace of the first run of each graph"};
  for (const auto& [graph, traced] : traced_) {
    sum.on_accelerator += traced.on_accelerator;
    sum.operators += traced.on_accelerator + traced.elsewhere;
    if (traced.cycles) sum.estimated_cycles = sum.estimated_cycles.value_or(0) + *traced.cycles;
  }
  return sum;
}

void QnnHtpBackend::close() {
  sessions_.clear();
  traced_.clear();
  profiles_.clear();
}

}  // namespace mobifarm
