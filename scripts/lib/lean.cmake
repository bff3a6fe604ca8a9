# Included by llama.cpp's project(): llama-cpp-python forces its common library on, which only the command-line
# tools use, and which takes as long to compile as the rest.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
