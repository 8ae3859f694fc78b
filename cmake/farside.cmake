# The three functions that every folder's CMakeLists.txt is made of, and the settings they share.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(FARSIDE_CCACHE ccache)
if(FARSIDE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${FARSIDE_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${FARSIDE_CCACHE})
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(tl-expected REQUIRED)
find_package(GTest REQUIRED)
set(Boost_USE_STATIC_LIBS ON)
find_package(Boost REQUIRED COMPONENTS program_options)
find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBURING REQUIRED IMPORTED_TARGET liburing)
include(GoogleTest)

add_library(farside_settings INTERFACE)
target_include_directories(farside_settings INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(farside_settings INTERFACE FARSIDE_VERSION="${PROJECT_VERSION}")
target_compile_options(farside_settings INTERFACE
  -Wall -Wextra -Wconversion -Wshadow $<$<BOOL:${FARSIDE_WERROR}>:-Werror> -g)
target_link_libraries(farside_settings INTERFACE tl::expected Threads::Threads)
# Not fmt's library: base/fmt.cc.
target_include_directories(farside_settings SYSTEM INTERFACE
  $<TARGET_PROPERTY:fmt::fmt,INTERFACE_INCLUDE_DIRECTORIES>)
target_compile_definitions(farside_settings INTERFACE
  $<TARGET_PROPERTY:fmt::fmt,INTERFACE_COMPILE_DEFINITIONS>)
if(FARSIDE_MUTANTS)
  target_compile_definitions(farside_settings INTERFACE FARSIDE_MUTANTS=1)
endif()
if(FARSIDE_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++'s manual: false alarms where a sanitizer has rewritten the code. The release build keeps it.
  target_compile_options(farside_settings INTERFACE -Wno-maybe-uninitialized)
endif()
if(FARSIDE_SANITIZE STREQUAL "address")
  target_compile_options(farside_settings INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(farside_settings INTERFACE -fsanitize=address,undefined)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # What the sanitizers add to a program is full of addresses. Where it lies at a fixed place they
    # need no relocation, a third of the time that a test takes to start.
    target_link_options(farside_settings INTERFACE -no-pie)
  endif()
  # Bounds that lie inside of an object are the library's to see.
  target_compile_definitions(farside_settings INTERFACE
    FARSIDE_POISON_FRAMES=1 _GLIBCXX_ASSERTIONS=1)
elseif(FARSIDE_SANITIZE STREQUAL "thread")
  target_compile_options(farside_settings INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(farside_settings INTERFACE -fsanitize=thread)
  target_compile_definitions(farside_settings INTERFACE FARSIDE_NO_FRAME_POOL=1)
elseif(FARSIDE_SANITIZE)
  message(FATAL_ERROR "FARSIDE_SANITIZE is '${FARSIDE_SANITIZE}': use address, thread or nothing")
endif()

if(FARSIDE_FUZZ)
  # Everything is instrumented; an engine is linked to fuzz targets alone. OSS-Fuzz names its own,
  # and brings its own flags: a sanitizer in them wants freed frames freed, too.
  if(FARSIDE_FUZZ_FLAGS)
    target_compile_options(farside_settings INTERFACE -fsanitize=fuzzer-no-link)
    target_link_options(farside_settings INTERFACE -fsanitize=fuzzer-no-link)
  else()
    set(CMAKE_POSITION_INDEPENDENT_CODE ON)  # For AFL++'s mutator, a shared library.
  endif()
  if(NOT FARSIDE_SANITIZE)
    target_compile_definitions(farside_settings INTERFACE FARSIDE_NO_FRAME_POOL=1)
  endif()
  set(FARSIDE_FUZZING_ENGINE -fsanitize=fuzzer)
  if(DEFINED ENV{LIB_FUZZING_ENGINE})
    set(FARSIDE_FUZZING_ENGINE $ENV{LIB_FUZZING_ENGINE})
  endif()
endif()

# farside_library(NAME SOURCES a.cc ... [DEPS farside_base ...]): one static library for a folder.
# It can include only what it and its DEPS may see; ci/check-includes holds folders to that.
function(farside_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC farside_settings ${ARG_DEPS})
endfunction()

# Linked into each program itself: of a library the linker would not take it.
set(FARSIDE_PROGRAM_SOURCES ${PROJECT_SOURCE_DIR}/base/sanitizer_options.cc)

# farside_test(NAME SOURCES a_test.cc ... [DEPS ...]): a GoogleTest program, one CTest entry a test.
function(farside_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} ${FARSIDE_PROGRAM_SOURCES})
  target_link_libraries(${name} PRIVATE farside_settings ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  if(FARSIDE_SANITIZE)
    target_compile_options(${name} PRIVATE -O0)  # Compiles in a third of the time.
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 60 LABELS unit)
endfunction()

# farside_program(NAME SOURCES main.cc ... [DEPS ...]): an executable that is installed. All are built
# into bin/, where they find each other as they do when installed.
function(farside_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} ${FARSIDE_PROGRAM_SOURCES})
  target_link_libraries(${name} PRIVATE farside_settings ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  install(TARGETS ${name} RUNTIME)
endfunction()
