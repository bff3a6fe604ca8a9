# Included by llama.cpp's project(). llama-cpp-python always enables the common library, which only the command-line
# tools need and which takes as long to compile as the rest.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
