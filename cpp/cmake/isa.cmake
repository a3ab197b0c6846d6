# SPDX-License-Identifier: MIT
# THE list of instruction sets, plainest first. A row is
#   gru_isa(name base architecture vector flags...)
# with the vectors of kernels/vec_<vector>.h and the dot products of kernels/dot_<name>.h. A set
# whose base is another shares its float kernels: products in bfloat16 and int8 are its own where
# there is a <name>_kernels.cpp, else those in int8 alone, from low_kernels.cpp.
# A new set is a row here and missing_<name>() in src/isa/detect_*.cpp. Dispatch and tests follow
# from the list.

set(GRU_ISA_ROWS "")

macro(gru_isa name base architecture vector)
  list(APPEND GRU_ISA_ROWS ${name})
  set(GRU_ISA_${name}_BASE ${base})
  set(GRU_ISA_${name}_ARCHITECTURE ${architecture})
  set(GRU_ISA_${name}_VECTOR ${vector})
  set(GRU_ISA_${name}_FLAGS ${ARGN})
endmacro()

# The baseline is not vectorised by the compiler, so that it is one.
gru_isa(scalar scalar any scalar -fno-tree-vectorize)
# GCC would hoist loads over the products of a tile and spill sums.
set(GRU_NEON $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
gru_isa(neon neon arm neon ${GRU_NEON})
gru_isa(neondot neon arm neon ${GRU_NEON} -march=armv8.2-a+dotprod)
gru_isa(avx2 avx2 x86 avx2 -mavx2 -mfma)
gru_isa(avx2vnni avx2 x86 avx2 -mavx2 -mfma -mavxvnni)
set(GRU_AVX512 -mavx512f -mavx512bw -mavx512dq -mavx512vl)
gru_isa(avx512 avx512 x86 avx512 ${GRU_AVX512})
gru_isa(avx512vnni avx512 x86 avx512 ${GRU_AVX512} -mavx512vnni)
gru_isa(amx avx512 x86 avx512 ${GRU_AVX512} -mavx512vnni -mavx512bf16 -mamx-tile -mamx-bf16 -mamx-int8)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(GRU_ARCHITECTURE x86)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(GRU_ARCHITECTURE arm)
else()
  message(FATAL_ERROR "gruengine has no kernels for '${CMAKE_SYSTEM_PROCESSOR}'; "
                      "it knows x86_64 and aarch64")
endif()

set(GRU_CPP_DIR "${CMAKE_CURRENT_LIST_DIR}/..")

set(GRUENGINE_ISAS "" CACHE STRING "Build only these instruction sets; scalar is always there")

# Compiles the kernels once per instruction set into `target`, with dispatch and detection.
function(gru_add_kernels target)
  set(generated "${CMAKE_CURRENT_BINARY_DIR}/generated")
  set(entries "")
  # Tiles are unrolled by hand: -O3 adds copies of them for each shape, and no speed.
  set(optimised -O2)
  if(GRUENGINE_SANITIZE)  # minutes of compilation otherwise
    set(optimised -O1)
  endif()
  foreach(isa IN LISTS GRU_ISA_ROWS)
    if(NOT GRU_ISA_${isa}_ARCHITECTURE MATCHES "^(any|${GRU_ARCHITECTURE})$")
      continue()
    endif()
    if(GRUENGINE_ISAS AND NOT isa IN_LIST GRUENGINE_ISAS AND NOT isa STREQUAL scalar)
      continue()
    endif()
    string(APPEND entries "GRU_ISA_ROW(${isa}, ${GRU_ISA_${isa}_BASE})\n")
    set(object "${target}_kernels_${isa}")
    set(low "${GRU_CPP_DIR}/src/kernels/${isa}_kernels.cpp")
    if(NOT EXISTS "${low}")
      set(low "${GRU_CPP_DIR}/src/kernels/low_kernels.cpp")
    endif()
    add_library(${object} OBJECT "${low}")
    if(GRU_ISA_${isa}_BASE STREQUAL isa)
      target_sources(${object} PRIVATE "${GRU_CPP_DIR}/src/kernels/kernels.cpp"
                                       "${GRU_CPP_DIR}/src/kernels/train_kernels.cpp")
    endif()
    target_compile_features(${object} PRIVATE cxx_std_20)
    target_include_directories(${object} PRIVATE "${GRU_CPP_DIR}/src")
    target_compile_definitions(${object} PRIVATE
      GRU_ISA=${isa} GRU_VEC="kernels/vec_${GRU_ISA_${isa}_VECTOR}.h"
      GRU_DOT="kernels/dot_${isa}.h" $<$<STREQUAL:${isa},${GRU_ISA_${isa}_BASE}>:GRU_OWN_BFLOAT16>)
    # Nothing unwinds through a kernel.
    # Products and sums are fused only where the source says so: that is part of "one number".
    # Some warnings of GCC come from its own intrinsics headers.
    target_compile_options(${object} PRIVATE
      ${GRU_ISA_${isa}_FLAGS} -ffp-contract=off -fno-math-errno -fno-exceptions
      -fno-asynchronous-unwind-tables
      $<$<NOT:$<CONFIG:Debug>>:${optimised}>
      # It would store the sums of a tile of integers in each turn of their loop.
      $<$<CXX_COMPILER_ID:GNU>:-fno-tree-pre>
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
      $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>)
    set_target_properties(${object} PROPERTIES POSITION_INDEPENDENT_CODE ON
                                               CXX_VISIBILITY_PRESET hidden
                                               INTERPROCEDURAL_OPTIMIZATION OFF)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
  endforeach()
  file(CONFIGURE OUTPUT "${generated}/isa_list.inc" CONTENT "${entries}" @ONLY)
  target_include_directories(${target} PRIVATE "${generated}")
  target_sources(${target} PRIVATE "${GRU_CPP_DIR}/src/isa/dispatch.cpp"
                                   "${GRU_CPP_DIR}/src/isa/detect_${GRU_ARCHITECTURE}.cpp")
endfunction()
