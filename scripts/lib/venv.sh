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

# backend_info QUESTION...: ask scripts/lib/backend.py, which knows every backend of llama.cpp.
backend_info() { "$(find_python)" "$ROOT/scripts/lib/backend.py" "$@"; }

# Print CMake options that leave out the unused parts of llama.cpp: 83 files are compiled instead of about 300.
lean_cmake_args() {
    local off
    for off in LLAVA_BUILD LLAMA_BUILD_TOOLS LLAMA_BUILD_EXAMPLES LLAMA_BUILD_TESTS LLAMA_BUILD_SERVER \
        LLAMA_BUILD_APP LLAMA_OPENSSL; do
        printf -- '-D%s=OFF ' "$off"
    done
    printf -- '-DCMAKE_PROJECT_llama.cpp_INCLUDE=%s ' "$ROOT/scripts/lib/lean.cmake"
    backend_info cmake "$1"
}

pip_install() { "$PY" -m pip install --disable-pip-version-check --no-input "$@"; }

# pip_locked SET...: install requirements/SET.txt, which name all packages. pip refuses files with another hash.
pip_locked() {
    local name files=
    for name in "$@"; do files="$files -r requirements/$name.txt"; done
    # shellcheck disable=SC2086
    (cd "$ROOT" && pip_install -qq --require-hashes --no-deps --no-build-isolation $files)
}

# has_backend NAME: return 0 if the installed llama.cpp has the backend and can be loaded.
has_backend() { "$PY" "$ROOT/scripts/lib/backend.py" has "$1" >/dev/null 2>&1; }

# Return 0 if the installed llama.cpp has the backend, and the one in NEEDS, such as rpc.
has_wanted() { has_backend "$1" && { [ -z "${NEEDS:-}" ] || has_backend "$NEEDS"; }; }

# install_llama_cpp NAME: install llama.cpp with this backend, unless it is installed.
install_llama_cpp() {
    local backend=$1 locked=$VENV/llama_cpp.txt log=$VENV/llama_cpp_build.log extra='' setup
    has_wanted "$backend" && return
    say "backend of llama.cpp: $(backend_info explain)"
    sed -n '/^llama-cpp-python==/,/[^\\]$/p' "$ROOT/requirements/run.txt" >"$locked"
    setup=$(backend_info setup "$backend")
    for extra in "" "--no-cache-dir --force-reinstall"; do
        # pip's cache identifies a compiled wheel by its source alone, so the first attempt may install a wheel built
        # for another backend. The second attempt compiles it again.
        say "installing llama.cpp for $backend (compiling takes 3 to 10 minutes the first time; log: $log)"
        # shellcheck disable=SC2086
        (
            [ -z "$setup" ] || eval "export $setup"
            CMAKE_ARGS="${CMAKE_ARGS:-$(lean_cmake_args "$backend")}" pip_install --verbose --require-hashes --no-deps \
                --no-build-isolation $extra -r "$locked" 2>&1 | "$PY" "$ROOT/scripts/lib/build_progress.py" "$log"
        ) || true
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

# Print the path of Chromium or Chrome; return 1 if there is none. tests/support/chromium.py has the same names.
find_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# Return 0 if STAMP has the content WANTED.
up_to_date() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# create_venv [--clear]: create $VENV; --clear empties it first.
create_venv() {
    local python
    python=$(find_python)
    say "creating $VENV with $("$python" --version)"
    "$python" -m venv "$@" "$VENV" || die "the virtual environment could not be created" \
        "Debian, Ubuntu: sudo apt install python3-venv"
}

# ensure_venv EXTRAS: create .venv with turbopilot[EXTRAS], editable. Does nothing if it is up to date.
ensure_venv() {
    local extras=$1 stamp wanted backend
    backend=$(backend_info choose)
    wanted="$extras $backend $(cat "$ROOT/pyproject.toml" "$ROOT"/requirements/*.txt | cksum)"
    stamp=$VENV/.turbopilot-$extras
    up_to_date "$stamp" "$wanted" && return
    [ -x "$PY" ] || create_venv
    "$PY" -c 'import llama_cpp' 2>/dev/null || require_compiler
    pip_locked build
    install_llama_cpp "$backend"
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

# ensure_overlay NAME FOLDER: create FOLDER, an environment with the packages of requirements/NAME.txt; its other packages
# are those of .venv. Sets OVERLAY_PY. Does nothing if it is up to date.
ensure_overlay() {
    local name=$1 folder=$2 wanted
    OVERLAY_PY=$folder/bin/python
    wanted=$(cksum <"$ROOT/requirements/$name.txt")
    up_to_date "$folder/.stamp" "$wanted" && return
    say "installing the packages of requirements/$name.txt into $folder"
    "$PY" -m venv --clear "$folder"
    "$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$OVERLAY_PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/turbopilot_base.pth"
    PY=$OVERLAY_PY pip_locked "$name"
    echo "$wanted" >"$folder/.stamp"
}
