"""The image runs as docs/deploy.md says: the original's variables, a read-only root, no root user, a health check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import Container, Image, build_image, run
from tests.support.old_ggml import old_gptj
from tests.support.tiny import tiny_checkpoint

pytestmark = [pytest.mark.images, pytest.mark.timeout(3 * 60 * 60)]
PROMPT = "def fibonacci(n):"


@pytest.fixture(scope="module")
def image() -> Image:
    return build_image()


@pytest.fixture(scope="module")
def bundled(image: Image) -> Iterator[Container]:
    """Container of the bundled model."""
    with image.container() as container:
        container.wait()
        yield container


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return an empty folder that every user can read, as ./models of a clone."""
    folder = tmp_path / "models"
    folder.mkdir()
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    return folder


def test_old_file_is_served_with_the_variables_of_the_original(image: Image, models: Path) -> None:
    checkpoint = tiny_checkpoint("gptj", models.parent / "checkpoint")
    old_gptj(checkpoint, models / "codegen-2B-multi-ggml-4bit-quant.bin", "Q4_0")
    variables = {
        "THREADS": "1", "MODEL": "/models/codegen-2B-multi-ggml-4bit-quant.bin", "MODEL_TYPE": "codegen",
        "GPU_LAYERS": "", "BATCHSIZE": "8",
    }  # fmt: skip
    given = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    with image.container("-v", f"{models}:/models", *given) as container:
        container.wait()
        body = {"model": "codegen", "prompt": "def main():", "max_tokens": 4, "temperature": 0}
        answer = container.ask("/v1/engines/codegen/completions", body)
        assert answer["usage"]["completion_tokens"] == 4
        assert "1 thread" in container.log()
    assert [p.name for p in models.iterdir()] == ["codegen-2B-multi-ggml-4bit-quant.bin"]


def test_gguf_file_of_a_mounted_folder_is_served(
    image: Image, models: Path, demo_q4_0: Path
) -> None:
    shutil.copy(demo_q4_0, models / "model.gguf")
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    with image.container("-v", f"{models}:/models:ro", "-e", "MODEL=/models/model.gguf") as served:
        served.wait()
        (choice,) = served.ask("/v1/completions", body)["choices"]
    assert choice["text"].strip()


def test_server_is_not_root_and_cannot_write_outside_its_volume(bundled: Container) -> None:
    assert bundled.execute("id", "-u").stdout.strip() == "10001"
    assert bundled.execute("touch", "/opt/turbopilot/file").returncode != 0
    assert bundled.execute("touch", "/cache/file").returncode == 0
    assert bundled.ask("/v1/completions", {"prompt": PROMPT, "max_tokens": 4})["choices"]


def test_new_model_files_are_tried_in_a_sandbox(bundled: Container) -> None:
    program = "from turbopilot.llama.sandbox import restrict; print(*sorted(restrict(memory=2**30, seconds=60)))"
    done = bundled.execute("python", "-c", program)
    assert "limits" in done.stdout, done.stderr
    assert "seccomp" in done.stdout


def test_health_check_of_the_image_succeeds_and_fails(image: Image, bundled: Container) -> None:
    inspected = json.loads(run(*image.engine, "image", "inspect", image.name))
    config = inspected[0].get("Config", {})
    check = config.get("Healthcheck") or inspected[0]["Healthcheck"]
    kind, *command = check["Test"]
    assert kind == "CMD"
    assert bundled.execute(*command).returncode == 0
    assert bundled.execute("env", "TURBOPILOT_PORT=1", *command).returncode != 0


def test_stopped_container_ends_in_order(image: Image) -> None:
    with image.container() as container:
        container.wait()
        assert container.stop() == 0


def test_worker_of_the_image_lends_its_processor(image: Image) -> None:
    with image.container(command=("worker", "--host", "0.0.0.0")) as container:
        container.wait()


def test_image_has_a_library_for_each_generation_of_processors(image: Image) -> None:
    program = "from turbopilot.base.backends import library_folder as f; print(*f().iterdir())"
    libraries = image.output("python", "-c", program).split()
    assert sum("ggml-cpu-" in name for name in libraries) > 3


def test_image_has_no_compiler_and_no_installer(image: Image) -> None:
    found = image.output("-c", "command -v g++ cc make pip pip3 curl wget; true", entrypoint="sh")
    assert found == ""


def test_sbom_of_the_image_lists_its_packages(image: Image) -> None:
    bom = json.loads(image.output("cat", "/opt/turbopilot/sbom.cdx.json"))
    purls = {component["purl"].partition("@")[0] for component in bom["components"]}
    assert {"pkg:pypi/llama-cpp-python", "pkg:pypi/flask"} <= purls
    assert any(purl.startswith("pkg:deb/") and purl.endswith("/python3") for purl in purls)
    installed = image.output("-c", "dpkg-query -W -f '${Package}\\n'", entrypoint="sh").split()
    listed = {p.rpartition("/")[2] for p in purls if p.startswith("pkg:deb/")}
    assert listed == set(installed)
