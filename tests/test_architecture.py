"""Who may import whom, and who may import the heavy libraries: read from the source with `ast`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("turbopilot", "converters", "quantize", "serve")
LEAVES = {
    "turbopilot.errors", "turbopilot.progress", "turbopilot.atomic", "turbopilot.gguf_file", "turbopilot.gguf_check",
    "turbopilot.gguf_split", "turbopilot.gguf_cursor", "turbopilot.gguf_edit", "turbopilot.gguf_digest",
    "turbopilot.certificate", "turbopilot.ggml_types", "turbopilot.inspect_gguf", "turbopilot.tensor_summary",
    "turbopilot.version", "turbopilot.catalog", "turbopilot.text_normalizer",
    "turbopilot.file_digest", "turbopilot.remembered", "turbopilot.memory", "turbopilot.llama_child",
    "turbopilot.hardware", "turbopilot.kl_divergence", "turbopilot.scale", "turbopilot.svg",
    "turbopilot.ggml_devices", "turbopilot.code_corpus", "turbopilot.quantized",
    "turbopilot.prompt_speed", "turbopilot.flash_attention", "turbopilot.editors",
}  # fmt: skip
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# heavy library → the only files that may import it
OWNERS = {
    "gguf": {
        "converters/writer.py", "converters/encode.py", "converters/tokenizer/trial_file.py",
        "turbopilot/verify/tensor_errors.py", "quantize/imatrix/file.py",
    },
    "llama_cpp": {
        "quantize/llama_quantize.py", "quantize/imatrix/llama_gather.py", "quantize/fit/llama_probe.py",
        "serve/llama/",
        "turbopilot/verify/gguf_candidate.py", "converters/tokenizer/trial_child.py",
        "turbopilot/bench/llama_runner.py",
    },
    "torch": {
        "turbopilot/verify/torch_model.py", "turbopilot/verify/streamed_weights.py",
        "turbopilot/verify/reference_layouts.py",
    },
    "transformers": {
        "turbopilot/verify/torch_model.py", "turbopilot/verify/torch_words.py",
        "turbopilot/verify/reference_tokenizer.py",
    },
    "tokenizers": {
        "converters/tokenizer/trial_child.py", "turbopilot/verify/reference_tokenizer.py",
    },
    "flask": {
        "serve/http/app.py", "serve/http/errors.py", "serve/http/routes/", "serve/http/access.py",
        "serve/http/security/hooks.py",
    },
    "waitress": {"serve/http/server.py", "serve/http/channel.py"},
    "jinja2": {"serve/chat_template.py"},
    "prometheus_client": {"serve/http/prometheus.py"},
    "rich": {"turbopilot/console.py"},
    "huggingface_hub": {"turbopilot/hub/"},
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


def allowed(module: str, name: str) -> bool:
    package = module.split(".")[0]
    # "from turbopilot.errors import InvalidInput" counts as turbopilot.errors.InvalidInput too
    leaf = (
        any(name == leaf or name.startswith(leaf + ".") for leaf in LEAVES) or name == "turbopilot"
    )
    if module in LEAVES:
        return leaf
    if package in ("converters", "quantize", "serve"):
        return leaf or name.split(".")[0] == package
    if module.startswith("turbopilot.verify"):
        return leaf or name.startswith("turbopilot.verify")
    if module.startswith("turbopilot.bench"):
        return leaf or name.startswith("turbopilot.bench")
    if module.startswith("turbopilot.hub"):
        return leaf or name.startswith("turbopilot.hub")
    if module.startswith("turbopilot.commands"):
        return not name.startswith("turbopilot.cli")
    if module in ("turbopilot.cli", "turbopilot.__main__"):
        return name.startswith("turbopilot")
    return leaf  # the package itself, console, version


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_arrows_point_one_way(path: Path) -> None:
    module = module_name(path)
    wrong = {n for n in ours(imports(path)) if not allowed(module, n)}
    assert not wrong, f"{module} may not import {sorted(wrong)}"


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_one_door(library: str) -> None:
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


def test_files_stay_readable() -> None:
    long = {p: n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 300}
    assert not long, f"split by meaning: {long}"


HEAVY = (
    "torch",
    "transformers",
    "llama_cpp",
    "gguf",
    "flask",
    "waitress",
    "prometheus_client",
    "numpy",
    "huggingface_hub",
    "tokenizers",
)


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stderr.write('\\n'.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["convert", "--help"], ["serve", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    run = (
        f"sys.argv = ['turbopilot', *{arguments!r}]\n"
        "from turbopilot.cli import main\ntry: main()\nexcept SystemExit: pass"
    )
    assert modules_after(run) == set()


def test_converting_needs_no_torch(demo_checkpoint: Path, tmp_path: Path) -> None:
    run = (
        f"from pathlib import Path\nfrom converters import convert\n"
        f"convert(Path({str(demo_checkpoint)!r}), Path({str(tmp_path / 'x.gguf')!r}))"
    )
    assert (
        modules_after(run) & {"torch", "transformers", "llama_cpp", "flask", "tokenizers"} == set()
    )


def test_serving_needs_no_torch() -> None:
    assert (
        modules_after("import serve.http.app, serve.llama.decoder") & {"torch", "transformers"}
        == set()
    )
