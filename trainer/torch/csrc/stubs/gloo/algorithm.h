// Stand-in for a gloo header that libtorch's packages leave out; ProcessGroupGloo.hpp includes it and uses nothing of it.
#pragma once
