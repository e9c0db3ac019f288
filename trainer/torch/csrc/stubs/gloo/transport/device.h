// Stand-in for a gloo header that libtorch's packages leave out; devices are only passed on as shared pointers.
#pragma once
namespace gloo {
namespace transport {
class Device;
}
} // namespace gloo
