"""Allowed imports between packages and of heavy libraries, checked with `ast`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("turbopilot", "converters", "quantize", "serve")
BELOW = ("turbopilot.base", "turbopilot.formats", "turbopilot.llama")
SIBLINGS = (
    "turbopilot.catalog", "turbopilot.hub", "turbopilot.editors", "turbopilot.corpus", "turbopilot.verify",
    "turbopilot.bench", "turbopilot.tasks", "converters", "quantize", "serve",
)  # fmt: skip
# package → packages that it may import in addition to itself; the most specific name counts
MAY_IMPORT = {
    "turbopilot.base": (),
    "turbopilot.formats": BELOW[:1],
    "turbopilot.llama": BELOW[:2],
    **dict.fromkeys(SIBLINGS, BELOW),
    "turbopilot.app": (*BELOW, *SIBLINGS),
    "turbopilot.cluster": (*BELOW, "serve", "turbopilot.app"),
    "turbopilot.render": (*BELOW, *SIBLINGS, "turbopilot.app", "turbopilot.cluster"),
    "turbopilot.commands": (
        *BELOW,
        *SIBLINGS,
        "turbopilot.app",
        "turbopilot.cluster",
        "turbopilot.render",
    ),
    "turbopilot": (*BELOW, *SIBLINGS, "turbopilot.commands", "turbopilot.render"),
}
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# heavy library → the only files that may import it
OWNERS = {
    "gguf": {
        "converters/writer.py", "converters/encode.py", "converters/tokenizer/trial_file.py",
        "turbopilot/verify/tensor_errors.py", "quantize/imatrix/file.py",
    },
    "llama_cpp": {"turbopilot/llama/"},
    "llguidance": {"serve/sampling/json_schema.py"},
    "torch": {
        "turbopilot/verify/torch_model.py", "turbopilot/verify/streamed_weights.py",
        "turbopilot/verify/stored_parameters.py",
        "turbopilot/verify/reference_layouts.py",
    },
    "transformers": {
        "turbopilot/verify/torch_model.py", "turbopilot/verify/torch_errors.py",
        "turbopilot/verify/reference_tokenizer.py",
    },
    "tokenizers": {"converters/tokenizer/trial_child.py", "turbopilot/verify/reference_tokenizer.py"},
    "flask": {
        "serve/http/app.py", "serve/http/errors.py", "serve/http/respond.py", "serve/http/views.py",
        "serve/http/request_log.py", "serve/http/request_times.py", "serve/http/page.py",
        "serve/http/security/hooks.py", "serve/http/status_views.py", "serve/http/editors_view.py",
    },
    "waitress": {"serve/http/server.py", "serve/http/channel.py"},
    "pydantic": {"serve/api/"},
    "pydantic_core": {"serve/api/"},
    "jinja2": {"serve/prompt/template_child.py", "turbopilot/render/verify_page.py"},
    "prometheus_client": {"serve/http/prometheus.py"},
    "rich": {"turbopilot/render/console.py"},
    "huggingface_hub": {"turbopilot/hub/"},
    "ray": {"turbopilot/cluster/"},
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    return {n for n in names if n.split(".")[0] in PACKAGES}


def room(module: str) -> str:
    """Return the package of a module: the longest name in MAY_IMPORT that the module's name starts with."""
    return max((r for r in MAY_IMPORT if f"{module}.".startswith(f"{r}.")), key=len)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_packages_import_only_allowed_packages(path: Path) -> None:
    here = room(module_name(path))
    wrong = {
        name
        for name in ours(imports(path)) - {"turbopilot", "turbopilot.__version__"}
        if room(name) not in (here, *MAY_IMPORT[here])
    }
    assert not wrong, f"{here} may not import {sorted(wrong)}"


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_library_is_imported_only_by_its_owners(library: str) -> None:
    users = {
        p.relative_to(ROOT).as_posix()
        for p in FILES
        if any(n.split(".")[0] == library for n in imports(p))
    }
    strangers = {
        u
        for u in users
        if not any(u == o or (o.endswith("/") and u.startswith(o)) for o in OWNERS[library])
    }
    assert not strangers, f"{library} is imported by {sorted(strangers)}"


def test_only_the_console_prints() -> None:
    for path in FILES:
        calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        printing = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not printing, f"{path}:{printing[0].lineno} prints"


def test_source_files_have_at_most_300_lines() -> None:
    long = {p: n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 300}
    assert not long, f"split these files into modules: {long}"


HEAVY = (
    "torch", "transformers", "llama_cpp", "gguf", "flask", "pydantic", "waitress", "prometheus_client", "numpy",
    "huggingface_hub", "tokenizers", "llguidance", "ray",
)  # fmt: skip


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stderr.write('\\n'.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["convert", "--help"],
        ["serve", "--help"],
        ["cluster", "deploy", "--help"],
        ["--version"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    run = (
        f"sys.argv = ['turbopilot', *{arguments!r}]\n"
        "from turbopilot.cli import main\ntry: main()\nexcept SystemExit: pass"
    )
    # Typer itself imports pydantic when it reads the parameters of a command.
    of_typer = {"pydantic"} if len(arguments) > 1 else set()
    assert modules_after(run) - of_typer == set()


def test_conversion_does_not_import_torch_or_llama_cpp(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    run = (
        f"from pathlib import Path\nfrom converters import convert\n"
        f"convert(Path({str(demo_checkpoint)!r}), Path({str(tmp_path / 'x.gguf')!r}))"
    )
    heavy = {"torch", "transformers", "llama_cpp", "flask", "tokenizers"}
    assert not modules_after(run) & heavy


def test_serving_does_not_import_torch() -> None:
    loaded = modules_after("import serve.http.app, serve.llama.decoder")
    assert not loaded & {"torch", "transformers"}
