"""What starts the recipe elsewhere (Docker, Slurm, Kubernetes, editors): checked and run here.

The services themselves are not here: linters and schemas read the files, a stub stands for srun.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT, nightly

HERE = ROOT / "examples" / "imagenet-resnet50"
WAYS = ("train.sh", "torchrun.sh", "train.sbatch", "train-job.yaml")
BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    """A linter of the dependency group `definitions`."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not here: pip install --group definitions")
    return found


def lint(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_ways_to_start_the_recipe_agree() -> None:
    """All scripts are whole, and name the five solvers in their order."""
    wanted = ["init", "cyc1", "cyc2", "cyc3", "collapse"]
    for name in WAYS:
        text = (HERE / name).read_text()
        assert re.findall(r"solver_(\w+)\.prototxt", text) == wanted, name
    for path in scripts():
        subprocess.run(["bash", "-n", path], check=True, timeout=30)


def scripts() -> list[Path]:
    return [*HERE.glob("*.sh"), HERE / "train.sbatch"]


def test_shell_scripts() -> None:
    lint(tool("shellcheck"), *scripts(), ROOT / ".ci" / "run")


def test_dockerfile() -> None:
    lint(tool("hadolint"), ROOT / "Dockerfile")


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_workflows_follow_githubs_schema() -> None:
    assert len(WORKFLOWS) == 2
    lint(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)


def test_each_job_of_the_workflows_is_a_target_of_make() -> None:
    """What CI does can be done on any machine; what is set for a target, the Makefile reads."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    jobs = 0
    for path in WORKFLOWS:
        for job in path.read_text().split("\n    runs-on:")[1:]:
            commands = re.findall(r"(?:- run|runCmd): (.+?)}?$", job, re.MULTILINE)
            made = [words for words in map(str.split, commands) if words[0] == "make"]
            if "docker build" not in job and "bash .ci/run" not in job:
                assert len(made) == 1, job
            for words in made:
                assert words[1] in targets, words
                for name in re.findall(r"\b([A-Z_]+)=", " ".join(words[2:])):
                    assert f"$({name})" in makefile or f"$(if $({name})" in makefile, words
            jobs += 1
    assert jobs >= 14


GROUPS = (
    "fuzz",
    "test-portable",
    "test-lowest",
    "test-newest",
    "test-nightly",
    "docs",
    "notebooks",
)


@pytest.mark.parametrize("target", GROUPS)
def test_dependency_groups_are_installed_by_a_pip_that_knows_them(target: str) -> None:
    """Groups came with pip 25.1; Python 3.12 brings an older one."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "UV=", f"PYTHON={sys.executable}", target],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    pips = re.findall(r"(\S+) -m pip install (.*)", done.stdout)
    asked = [(python, rest) for python, rest in pips if "--group" in rest]
    assert asked
    for python, rest in asked:
        upgrade = [p for p, r in pips[: pips.index((python, rest))] if "'pip>=25.1'" in r]
        assert python in upgrade, (python, upgrade)
        assert re.fullmatch(r"\$python|\.venv[a-z-]*/bin/python", python)


def test_what_the_image_is_made_of_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "COPY constraints.txt" in text and not {"constraints.txt", "LICENSE"} & set(ignored)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extras] = re.findall(r"\.whl\)\[([a-z0-9,]+)\]", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    [python] = set(re.findall(r"FROM python:(\d\.\d+)-slim", text))
    assert f'"{python}"' in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_the_editors_container() -> None:
    """Its command is a target of the Makefile, which makes the Python that the editor takes."""
    said = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    python = said["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    command = said["postCreateCommand"].replace("make ", f"make --dry-run --always-make UV= "
                                                f"PYTHON={sys.executable} ")  # fmt: skip
    done = subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{python} -m pip install" in done.stdout and "--group dev" in done.stdout
    assert "whl/cpu" in done.stdout


def manifests() -> tuple[dict[str, Any], dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="pip install --group definitions")
    service, job = yaml.safe_load_all((HERE / "train-job.yaml").read_text())
    return service, job


def container() -> dict[str, Any]:
    [found] = manifests()[1]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_pods_find_each_other() -> None:
    service, job = manifests()
    pod = job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"--rdzv-endpoint {name}-0.{pod['subdomain']}:" in container()["command"][2]
    count = f"--nnodes {job['spec']['completions']} "
    assert count in container()["command"][2]
    assert job["spec"]["parallelism"] == job["spec"]["completions"]
    user = str(pod["securityContext"]["runAsUser"])
    assert f"--uid {user} " in (ROOT / "Dockerfile").read_text()


def test_kubernetes_schema() -> None:
    checker = pytest.importorskip(
        "kubernetes_validate", reason="pip install --group definitions", exc_type=ImportError
    )
    for manifest in manifests():
        for version in ("1.25", checker.latest_version()):
            checker.validate(manifest, version, strict=True)


STUBS = {
    # as many machines as the job asks for would be: one, this one
    "srun": """while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    "scontrol": "echo localhost\n",
}
LAST = "collapse_iter_2.caffemodel"


def start(folder: Path, *command: str, **more: str) -> subprocess.Popen[str]:
    """A command with the stubs on its path."""
    stubs = folder / "stubs"
    stubs.mkdir(exist_ok=True)
    for name, body in STUBS.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (stubs / name).chmod(0o755)
    env = {
        **os.environ, "PATH": f"{stubs}:{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1", **more,
    }  # fmt: skip
    return subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(running: subprocess.Popen[str], timeout: int = 600) -> str:
    said = running.communicate(timeout=timeout)[0]
    assert running.returncode == 0, said[-3000:]
    return said


def records(folder: Path) -> list[int]:
    """The phases' iterations of the metrics file."""
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["iter"] for line in lines if "loss" in json.loads(line)]


@nightly
@pytest.mark.timeout(900)
def test_torchrun(resnet: Path) -> None:
    finish(start(resnet, "bash", "torchrun.sh", "localhost", "1"))
    assert (resnet / LAST).exists() and len(records(resnet)) == 10


@nightly
@pytest.mark.timeout(900)
def test_one_machine(resnet: Path) -> None:
    path = resnet / "train.sh"
    path.write_text(path.read_text().replace("-v nvidia-smi", "-v no-such-program"))
    assert "CIO513" in finish(start(resnet, "bash", "train.sh"))  # a warm-up of the large recipe
    assert (resnet / LAST).exists()


@nightly
@pytest.mark.timeout(900)
def test_the_pods_command(resnet: Path) -> None:
    """With one pod in place of four, whose name is localhost."""
    words = list(container()["command"])
    words[2] = words[2].replace("--nnodes 4", "--nnodes 1")
    words[2] = words[2].replace("resnet50-0.resnet50:", "localhost:")
    finish(start(resnet, *words, JOB_COMPLETION_INDEX="0"))
    assert (resnet / LAST).exists()


def slurm(folder: Path) -> dict[str, str]:
    """The job's script with a node's /tmp in the folder, and what Slurm tells it."""
    tmp = folder / "node"
    tmp.mkdir()
    path = folder / "train.sbatch"
    path.write_text(path.read_text().replace("/tmp", str(tmp)))
    data = folder / "data"
    data.mkdir()
    for name in ("train", "test"):
        place = "train" if name == "train" else "val"
        shutil.copytree(folder / f"{name}_lmdb", data / f"ilsvrc12_{place}_lmdb")
    for net in folder.glob("train_val*.prototxt"):
        text = net.read_text()
        for name, place in (("train", "train"), ("test", "val")):
            text = re.sub(rf'source: "[^"]*{name}_lmdb"', f'source: "{tmp}/ilsvrc12_{place}_lmdb"',
                          text)  # fmt: skip
        net.write_text(text)
    return {
        "SLURM_JOB_NODELIST": "localhost", "SLURM_CPUS_ON_NODE": "2", "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(folder),
    }  # fmt: skip


@nightly
@pytest.mark.timeout(900)
def test_slurm(resnet: Path) -> None:
    """The databases are copied once, whole; two ranks train the five phases."""
    told = slurm(resnet)
    cut = resnet / "node" / "ilsvrc12_val_lmdb.part"  # of a job that was killed
    cut.mkdir()
    finish(start(resnet, "bash", "train.sbatch", **told))
    assert (resnet / LAST).exists() and len(records(resnet)) == 10
    assert not cut.exists() and (resnet / "node" / "ilsvrc12_val_lmdb" / "data.mdb").exists()


@nightly
@pytest.mark.timeout(900)
def test_slurm_before_the_time_is_over(resnet: Path) -> None:
    """The signal that Slurm sends to the script leaves a snapshot; the next job goes on from it."""
    told = slurm(resnet)
    solver = resnet / "solver_init.prototxt"
    text = re.sub(r"(max_iter|snapshot): \d+", r"\1: 500", solver.read_text())
    solver.write_text(text)
    running = start(resnet, "bash", "train.sbatch", **told)
    wait_for(lambda: (resnet / "train.jsonl").exists() and len(records(resnet)) > 2)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)
    [state] = resnet.glob("init_iter_*.solverstate")
    done = int(state.stem.rpartition("_")[2])
    solver.write_text(re.sub(r"max_iter: \d+", f"max_iter: {done + 1}", text))
    finish(start(resnet, "bash", "train.sbatch", **told))
    assert records(resnet).count(done) == 1 and (resnet / LAST).exists()


def wait_for(condition: Any, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)
