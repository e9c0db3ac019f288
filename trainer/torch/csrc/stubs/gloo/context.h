// Stand-in for a gloo header that libtorch's packages leave out. Nothing here is created or destroyed on our side;
// UnboundBuffer is complete only so that the unique_ptr members of ProcessGroupGloo's work classes compile.
#pragma once
#include <chrono>
#include <memory>
namespace gloo {
namespace transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer();
};
} // namespace transport
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
} // namespace gloo
