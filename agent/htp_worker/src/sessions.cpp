#include "sessions.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mobifarm {
namespace {

// The oldest API that these sources need: ONNX Runtime's of that minor version, or any later.
constexpr std::uint32_t kApiVersion = 23;

ONNXTensorElementDataType onnx_type(const std::string& name) {
  if (name == "float32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (name == "int32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  if (name == "int64") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

const ElementType* element_type_of(ONNXTensorElementDataType type) {
  for (const char* name : {"float32", "int32", "int64", "uint8"}) {
    if (onnx_type(name) == type) return element_type(name);
  }
  return nullptr;
}

void add_output(Message& outputs, const std::string& name, const Ort::Value& value) {
  if (!value.IsTensor()) throw BackendError("the output " + first_line(name, 40) + " is no tensor");
  const Ort::TensorTypeAndShapeInfo info = value.GetTensorTypeAndShapeInfo();
  const ElementType* type = element_type_of(info.GetElementType());
  if (type == nullptr) {
    throw BackendError("the output " + first_line(name, 40) + " has a type that is not understood");
  }
  outputs.add(name, *type, info.GetShape(), value.GetTensorRawData(), info.GetElementCount() * type->size);
}

}  // namespace

std::string first_line(const std::string& text, std::size_t length) {
  return text.substr(0, std::min(text.find('\n'), length));
}

Ort::Env& open_onnx_runtime() {
  const OrtApiBase* base = OrtGetApiBase();
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    throw BackendError("ONNX Runtime here is " + first_line(base->GetVersionString(), 40) +
                       ": this worker needs 1." + std::to_string(kApiVersion) + " or later");
  }
  Ort::InitApi(api);
  // Errors come as exceptions; nothing else is to be logged. Never destroyed: sessions and plugins may outlive
  // what is static here.
  static Ort::Env* environment = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "mobifarm-htp-worker");
  environment->DisableTelemetryEvents();
  return *environment;
}

void Sessions::open(const std::string& graph, const char* model, std::size_t size,
                    const Ort::SessionOptions& options) {
  opened_.erase(graph);
  Ort::Session session(open_onnx_runtime(), model, size, options);
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> inputs, outputs;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    inputs.emplace_back(session.GetInputNameAllocated(i, allocator).get());
  }
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    outputs.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }
  opened_.insert_or_assign(graph, Opened{std::move(session), std::move(inputs), std::move(outputs)});
}

Message Sessions::run(const std::string& graph, const Message& feeds) {
  const auto found = opened_.find(graph);
  if (found == opened_.end()) throw BackendError("no graph '" + first_line(graph, 40) + "' is loaded");
  auto& [session, input_names, output_names] = found->second;
  for (const std::string& name : input_names) {
    if (feeds.find(name) == nullptr) {
      throw BackendError("the graph " + first_line(graph, 40) + " failed: its input " + first_line(name, 40) +
                         " is missing");
    }
  }
  try {
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<const char*> names, wanted;
    std::vector<Ort::Value> values;
    for (const Array& array : feeds.arrays) {
      names.push_back(array.name.c_str());
      // Copied: in the body an array lies at any address.
      values.push_back(
          Ort::Value::CreateTensor(allocator, array.shape.data(), array.shape.size(), onnx_type(array.type->name)));
      // The memory of an array without elements is nowhere.
      if (array.size > 0) {
        std::memcpy(values.back().GetTensorMutableRawData(), feeds.body.data() + array.start, array.size);
      }
    }
    for (const std::string& name : output_names) wanted.push_back(name.c_str());
    const std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(),
                                                        values.size(), wanted.data(), wanted.size());
    Message answer;
    for (std::size_t i = 0; i < outputs.size(); ++i) add_output(answer, output_names[i], outputs[i]);
    return answer;
  } catch (const Ort::Exception& error) {
    throw BackendError("the graph " + first_line(graph, 40) + " failed: " + first_line(error.what()));
  }
}

std::string Sessions::end_profiling(const std::string& graph) {
  Ort::AllocatorWithDefaultOptions allocator;
  return opened_.at(graph).session.EndProfilingAllocated(allocator).get();
}

}  // namespace mobifarm
