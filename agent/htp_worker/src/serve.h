// Answers calls on a listening socket, as agent/backends/serve.py.
#pragma once

#include "interface.h"

namespace mobifarm {

// A file descriptor that is closed at the end.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }

 private:
  int number_;
};

// A socket that listens at `place`: a path (mode 0600), or @NAME for one of Linux's abstract names, which may
// be any text, a path too. Changes into the path's folder. Throws std::system_error or std::runtime_error.
int listen_at(const std::string& place);

// Serves one agent after the other; throws std::system_error where the listener breaks.
void serve(int listener, Backend& backend);

}  // namespace mobifarm
