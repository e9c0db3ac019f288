// Stand-in for a gloo header that libtorch's packages leave out; ProcessGroupGloo.hpp includes it for std exceptions only.
#pragma once
#include <stdexcept>
