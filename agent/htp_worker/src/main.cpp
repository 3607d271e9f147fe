// mobifarm-htp-worker --socket PATH --soc SM8650: owns a phone's neural processor and runs graphs on it for the
// agent. The same as `python -m mobifarm.agent.backends.serve`, for Android, where no Python can load the HTP.
#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include <getopt.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu.h"
#include "qnn_htp.h"
#include "serve.h"

namespace mobifarm {
namespace {

constexpr char kUsage[] =
    "usage: mobifarm-htp-worker --socket PATH|@NAME --soc SOC [--until-stdin-closes]\n"
    "  --socket PATH|@NAME   unix socket to listen at; @NAME for an abstract one\n"
    "  --soc SOC             ro.soc.model, such as SM8650; cpu for the processor\n"
    "  --until-stdin-closes  end with the process that started this one\n";

struct Options {
  std::string socket, soc;
  bool until_stdin_closes = false;
  bool help = false;
};

bool read_options(int count, char** arguments, Options& options) {
  const option known[] = {{"socket", required_argument, nullptr, 'p'},
                          {"soc", required_argument, nullptr, 'c'},
                          {"until-stdin-closes", no_argument, nullptr, 'u'},
                          {"help", no_argument, nullptr, 'h'},
                          {nullptr, 0, nullptr, 0}};
  for (int found = 0; (found = ::getopt_long(count, arguments, "h", known, nullptr)) != -1;) {
    if (found == 'p') options.socket = optarg;
    else if (found == 'c') options.soc = optarg;
    else if (found == 'u') options.until_stdin_closes = true;
    else if (found == 'h') options.help = true;
    else return false;
  }
  return options.help || (optind == count && !options.socket.empty() && !options.soc.empty());
}

const Chip& chip_of(const std::string& soc) {
  std::string wanted = soc, known;
  std::transform(wanted.begin(), wanted.end(), wanted.begin(), [](unsigned char c) { return std::toupper(c); });
  for (const Chip& chip : kChips) {
    if (wanted == chip.model) return chip;
    known += std::string(chip.model) + ", ";
  }
  throw BackendError("no HTP is known for '" + first_line(soc, 40) + "': give one of " + known + "or cpu");
}

void end_with_stdin() {
  char ignored[256];
  while (::read(STDIN_FILENO, ignored, sizeof ignored) > 0) {
  }
  ::_exit(0);  // the main thread may be deep in native code
}

std::unique_ptr<Backend> backend_for(const Options& options) {
  if (options.soc == "cpu") return std::make_unique<CpuBackend>();
  const std::string place = options.socket[0] == '@' ? options.socket.substr(1) : options.socket;
  return std::make_unique<QnnHtpBackend>(chip_of(options.soc), std::filesystem::absolute(place + ".profiles"));
}

int run(const Options& options) {
  // Native code greets on the standard output, which is ours alone: it goes to the errors instead.
  const int out = ::dup(STDOUT_FILENO);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  const std::unique_ptr<Backend> backend = backend_for(options);
  const Descriptor listener(listen_at(options.socket));
  ::dprintf(out, "ready\n");
  ::close(out);
  serve(listener.get(), *backend);
  return 0;
}

}  // namespace
}  // namespace mobifarm

int main(int count, char** arguments) {
  mobifarm::Options options;
  if (!mobifarm::read_options(count, arguments, options)) {
    std::fputs(mobifarm::kUsage, stderr);
    return 2;
  }
  if (options.help) {
    std::fputs(mobifarm::kUsage, stdout);
    return 0;
  }
  std::signal(SIGPIPE, SIG_IGN);
  ::umask(077);
  ::setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // ONNX Runtime would report its use to its maker
  try {
    if (options.until_stdin_closes) std::thread(mobifarm::end_with_stdin).detach();
    return mobifarm::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mobifarm-htp-worker: %s\n", error.what());
    return 2;
  }
}
