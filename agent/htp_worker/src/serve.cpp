#include "serve.h"

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace mobifarm {
namespace {

std::system_error failed(const std::string& what) {
  return std::system_error(errno, std::generic_category(), what);
}

// A field of a header as text, at most 40 bytes; "" where it is not there. Of a list or an object what it is:
// written out, one that is nested deeply would need more of the stack than there is.
std::string text_of(const nlohmann::json& fields, const char* name) {
  const auto found = fields.find(name);
  if (found == fields.end()) return "";
  if (found->is_structured()) return found->type_name();
  return first_line(found->is_string() ? found->get<std::string>() : found->dump(), 40);
}

Message call(Backend& backend, const Message& request) {
  const std::string name = text_of(request.fields, "call");
  const auto graph_field = request.fields.find("graph");
  const std::string graph =
      graph_field != request.fields.end() && graph_field->is_string() ? graph_field->get<std::string>() : "";
  Message answer;
  if (name == "hello") {
    answer.fields = {{"version", kProtocolVersion}, {"accelerator", backend.accelerator()}};
  } else if (const Array* model = request.find("model"); name == "load" && model != nullptr) {
    backend.load(graph, request.body.data() + model->start, model->size);
  } else if (name == "run") {
    answer = backend.run(graph, request);
  } else if (name == "placement") {
    const Placement found = backend.placement();
    answer.fields = {{"operators", found.operators},
                     {"on_accelerator", found.on_accelerator},
                     {"estimated_cycles", nullptr},
                     {"proof", found.proof}};
    if (found.estimated_cycles) answer.fields["estimated_cycles"] = *found.estimated_cycles;
  } else {
    throw BackendError("the call '" + name + "' is not understood");
  }
  return answer;
}

Message answer_to(Backend& backend, const Message& request) {
  try {
    return call(backend, request);
  } catch (const BackendError& error) {
    Message answer;
    answer.fields["error"] = error.what();
    return answer;
  }
}

// Only this user's programs may call: an abstract name has no mode.
bool is_own(int connection) {
  struct ucred peer {};
  socklen_t size = sizeof peer;
  return ::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid();
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

int listen_at(const std::string& place) {
  const bool abstract = place.rfind('@', 0) == 0;
  std::string name = place;
  if (abstract) {
    name[0] = '\0';
  } else {
    const std::filesystem::path path = std::filesystem::absolute(place);
    if (std::filesystem::create_directories(path.parent_path())) ::chmod(path.parent_path().c_str(), 0700);
    // By its name alone: the kernel takes no long paths.
    std::filesystem::current_path(path.parent_path());
    name = path.filename();
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.empty() || name.size() >= sizeof address.sun_path) {
    throw std::runtime_error("the name of a socket has 1 to " + std::to_string(sizeof address.sun_path - 1) +
                             " bytes");
  }
  std::memcpy(address.sun_path, name.data(), name.size());
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) throw failed("no socket can be made");
  if (!abstract && ::unlink(name.c_str()) != 0 && errno != ENOENT) throw failed(place);
  const socklen_t length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), length) != 0) throw failed(place);
  if (!abstract && ::chmod(name.c_str(), 0600) != 0) throw failed(place);
  if (::listen(listener, 1) != 0) throw failed(place);
  return listener;
}

void serve(int listener, Backend& backend) {
  for (;;) {
    const Descriptor connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (connection.get() < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      throw failed("the socket broke");
    }
    try {
      if (!is_own(connection.get())) throw ProtocolError("a program of another user called");
      for (;;) send(connection.get(), answer_to(backend, receive(connection.get())));
    } catch (const Closed&) {
    } catch (const std::exception& error) {
      // No message, a broken connection or no memory for what came: the agent calls again.
      std::fprintf(stderr, "worker: %s\n", error.what());
    }
    backend.close();  // the next agent, or the same one, loads what it needs
  }
}

}  // namespace mobifarm
