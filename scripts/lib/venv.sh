# Sourced by the scripts: creates .venv and installs TurboPilot into it if its dependencies have changed.
# Compatible with Bash 3.2, which macOS ships.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=${TURBOPILOT_VENV:-$ROOT/.venv}
PY=$VENV/bin/python
TOOLS=$VENV/tools # a second environment: its packages would affect the tests

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
# die MESSAGE HINT...: exit with $EXIT_CODE, or 1.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for hint in "$@"; do printf 'hint: %s\n' "$hint" >&2; done
    exit "${EXIT_CODE:-1}"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.10 or newer was found" \
        "Debian, Ubuntu: sudo apt install python3 python3-venv" "macOS: brew install python" \
        "or set PYTHON: PYTHON=/path/to/python3 $0"
}

require_compiler() {
    local compiler
    for compiler in ${CXX:-c++ g++ clang++}; do
        if command -v "$compiler" >/dev/null 2>&1; then return; fi
    done
    die "no C++ compiler was found; llama.cpp is compiled during the installation" \
        "Debian, Ubuntu: sudo apt install build-essential" "Fedora: sudo dnf install gcc-c++" \
        "Arch: sudo pacman -S base-devel" "macOS: xcode-select --install"
}

# Print the backend for which this machine has tools and hardware. TURBOPILOT_BACKEND overrides it.
backend() {
    if [ -n "${TURBOPILOT_BACKEND:-}" ]; then
        echo "$TURBOPILOT_BACKEND"
    elif [ "$(uname -s)" = Darwin ] && [ "$(uname -m)" = arm64 ]; then
        echo metal
    elif command -v nvcc >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
        echo cuda
    elif command -v glslc >/dev/null 2>&1 && ls /dev/dri/renderD* >/dev/null 2>&1; then
        echo vulkan
    else
        echo cpu
    fi
}

# Print CMake options that leave out the unused parts of llama.cpp: 83 files are compiled instead of about 300.
lean_cmake_args() {
    local off
    for off in LLAVA_BUILD LLAMA_BUILD_TOOLS LLAMA_BUILD_EXAMPLES LLAMA_BUILD_TESTS LLAMA_BUILD_SERVER \
        LLAMA_BUILD_APP LLAMA_OPENSSL; do
        printf -- '-D%s=OFF ' "$off"
    done
    # RPC, for `turbopilot worker`, adds 190 kB and seconds to compile.
    printf -- '-DCMAKE_PROJECT_llama.cpp_INCLUDE=%s -DGGML_RPC=ON ' "$ROOT/scripts/lib/lean.cmake"
    case $1 in
        cuda) printf -- '-DGGML_CUDA=ON ' ;;
        vulkan) printf -- '-DGGML_VULKAN=ON ' ;;
        metal) printf -- '-DGGML_METAL=ON ' ;;
        cpu) ;;
        *) die "TURBOPILOT_BACKEND=$1: expected cpu, cuda, metal or vulkan" ;;
    esac
}

pip_install() { "$PY" -m pip install --disable-pip-version-check --no-input "$@"; }

# pip_locked SET...: install requirements/SET.txt, which name all packages. pip refuses files with another hash.
pip_locked() {
    local name files=
    for name in "$@"; do files="$files -r requirements/$name.txt"; done
    # shellcheck disable=SC2086
    (cd "$ROOT" && pip_install -qq --require-hashes --no-deps --no-build-isolation $files)
}

# Return 0 if the installed llama.cpp has the backend.
has_backend() {
    "$PY" - "$1" <<'PY'
import importlib.util, pathlib, sys
spec = importlib.util.find_spec("llama_cpp")
if spec is None:
    sys.exit(1)
lib = pathlib.Path(spec.origin).parent / "lib"
sys.exit(0 if sys.argv[1] == "cpu" or any(lib.glob(f"*ggml-{sys.argv[1]}*")) else 1)
PY
}

# Return 0 if the installed llama.cpp has the backend, and the one in NEEDS, such as rpc.
has_wanted() { has_backend "$1" && has_backend "${NEEDS:-cpu}"; }

install_llama_cpp() {
    local backend locked=$VENV/llama_cpp.txt log=$VENV/llama_cpp_build.log extra=
    backend=$(backend)
    has_wanted "$backend" 2>/dev/null && return
    sed -n '/^llama-cpp-python==/,/[^\\]$/p' "$ROOT/requirements/run.txt" >"$locked"
    for extra in "" "--no-cache-dir --force-reinstall"; do
        # pip's cache identifies a compiled wheel by its source alone, so the first attempt may install a wheel built
        # for another backend. The second attempt compiles it again.
        say "installing llama.cpp for $backend (compiling takes 3 to 10 minutes the first time; log: $log)"
        # shellcheck disable=SC2086
        CMAKE_ARGS="${CMAKE_ARGS:-$(lean_cmake_args "$backend")}" pip_install --verbose --require-hashes --no-deps \
            --no-build-isolation $extra -r "$locked" 2>&1 | "$PY" "$ROOT/scripts/lib/build_progress.py" "$log" || true
        has_wanted "$backend" && return
        require_compiler
    done
    tail -n 30 "$log" >&2
    die "llama.cpp could not be installed for $backend" "see the log: $log" \
        "without the GPU: TURBOPILOT_BACKEND=cpu $0"
}

# Install the locked version of PyTorch; requirements/torch.txt says why it has no hash. What it requires has.
install_torch() {
    pip_install -qq --no-deps -r "$ROOT/requirements/torch.txt"
    if "$PY" -c 'import importlib.metadata as m; exit(not any("nvidia" in r for r in m.requires("torch")))'; then
        pip_locked cuda
    fi
}

# Return 0 if STAMP has the content WANTED.
up_to_date() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# ensure_venv EXTRAS: create .venv with turbopilot[EXTRAS], editable. Does nothing if it is up to date.
ensure_venv() {
    local extras=$1 python stamp wanted
    python=$(find_python)
    wanted="$extras $(backend) $(cat "$ROOT/pyproject.toml" "$ROOT"/requirements/*.txt | cksum)"
    stamp=$VENV/.turbopilot-$extras
    up_to_date "$stamp" "$wanted" && return
    if [ ! -x "$PY" ]; then
        say "creating $VENV with $("$python" --version)"
        "$python" -m venv "$VENV" || die "the virtual environment could not be created" \
            "Debian, Ubuntu: sudo apt install python3-venv"
    fi
    "$PY" -c 'import llama_cpp' 2>/dev/null || require_compiler
    pip_locked build
    install_llama_cpp
    say "installing turbopilot[$extras] and its tested dependencies (a minute or more, because PyTorch is large)"
    # shellcheck disable=SC2086
    pip_locked run ${extras//,/ }
    case ,$extras, in *,verify,*) install_torch ;; esac
    pip_install -qq --no-deps --no-build-isolation --editable "$ROOT"
    "$PY" -m pip check >&2 || die "the packages of $VENV do not fit together" "remove it and run $0 again: rm -r $VENV"
    echo "$wanted" >"$stamp"
}

# ensure_tools: create .venv/tools with the packages of requirements/tools.txt. Does nothing if it is up to date.
ensure_tools() {
    local PY=$TOOLS/bin/python wanted
    wanted=$(cksum <"$ROOT/requirements/tools.txt")
    up_to_date "$TOOLS/.stamp" "$wanted" && return
    say "installing the tools of requirements/tools.txt into $TOOLS"
    "$(find_python)" -m venv --clear "$TOOLS"
    pip_locked tools
    echo "$wanted" >"$TOOLS/.stamp"
}
