# SPDX-License-Identifier: MIT
# What is installed for C and C++: libraries, headers, a CMake package and a pkg-config file. All of
# it finds itself by where it lies, so the folder may be moved; in a wheel that folder is the
# package itself.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

if(GRUENGINE_FOR_PIP)
  set(root gruengine/)
  set(lib ${root}lib)
  set(include ${root}include)
  # A wheel has no links: the library lies under its soname alone.
  set_target_properties(gruengine PROPERTIES VERSION ${GRUENGINE_SOVERSION})
  set(namelink NAMELINK_SKIP)
else()
  set(lib ${CMAKE_INSTALL_LIBDIR})
  set(include ${CMAKE_INSTALL_INCLUDEDIR})
endif()

install(TARGETS gruengine gruengine_static EXPORT gruengine_targets
        LIBRARY DESTINATION ${lib} ${namelink}
        ARCHIVE DESTINATION ${lib}
        INCLUDES DESTINATION ${include})
if(CMAKE_STRIP AND NOT IS_ABSOLUTE "${lib}")
  # The archive keeps the names that a linker needs.
  install(CODE "execute_process(COMMAND \"${CMAKE_STRIP}\" --strip-unneeded
    \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${lib}/libgruengine.a\")")
endif()
install(DIRECTORY include/gruengine DESTINATION ${include} FILES_MATCHING PATTERN "*.h")
install(EXPORT gruengine_targets NAMESPACE gruengine:: DESTINATION ${lib}/cmake/gruengine
        FILE gruengine-targets.cmake)

configure_package_config_file(cmake/gruengine-config.cmake.in gruengine-config.cmake
                              INSTALL_DESTINATION ${lib}/cmake/gruengine
                              NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(gruengine-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/gruengine-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/gruengine-config-version.cmake
        DESTINATION ${lib}/cmake/gruengine)

file(RELATIVE_PATH GRUENGINE_PC_PREFIX /prefix/${lib}/pkgconfig /prefix/${root}.)
file(RELATIVE_PATH GRUENGINE_PC_LIB /prefix/${root} /prefix/${lib})
file(RELATIVE_PATH GRUENGINE_PC_INCLUDE /prefix/${root} /prefix/${include})
set(GRUENGINE_PC_PRIVATE "-lstdc++ -lm -lpthread")
configure_file(cmake/gruengine.pc.in gruengine.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/gruengine.pc DESTINATION ${lib}/pkgconfig)

if(GRUENGINE_FOR_PIP)
  # What -lgruengine finds in place of a link.
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/linker/libgruengine.so
       "INPUT(libgruengine.so.${GRUENGINE_SOVERSION})\n")
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/linker/libgruengine.so DESTINATION ${lib})
endif()
