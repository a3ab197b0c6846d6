# Flags that every target of the project shares. Never -march=native, never -ffast-math: kernels get
# their instruction sets from isa.cmake, and results do not depend on the machine that built them.
add_library(gruengine_options INTERFACE)
target_compile_features(gruengine_options INTERFACE cxx_std_20)
target_compile_options(gruengine_options INTERFACE
  -Wall -Wextra -Wpedantic -ffp-contract=off
  -fvisibility=hidden -fvisibility-inlines-hidden
  # GCC 12 sees overlaps in the concatenation of strings that are not there (its bug 105329).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<BOOL:${GRUENGINE_WERROR}>:-Werror>)

set(CMAKE_POSITION_INDEPENDENT_CODE ON)

set(GRUENGINE_SANITIZE "" CACHE STRING "Sanitizers, for example address,undefined or thread")
if(GRUENGINE_SANITIZE)
  add_compile_options(-fsanitize=${GRUENGINE_SANITIZE} -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=${GRUENGINE_SANITIZE})
endif()
