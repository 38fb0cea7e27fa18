"""The contract: its generated code is fresh, its floors are those of that code, and a daemon of last year understands it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
BIN = Path(sys.executable).parent
NOT_BROKEN, BROKEN = 0, 100  # what `buf breaking` exits with


def test_the_generated_code_is_what_the_contract_generates(tmp_path: Path) -> None:
    out = [
        f"--{kind}_out={option}{tmp_path}" for kind, option in (("python", ""), ("grpc_python", ""), ("mypy", "quiet:"))
    ]
    plugin = f"--plugin=protoc-gen-mypy={BIN / 'protoc-gen-mypy'}"
    protos = sorted(path.relative_to(PROTO) for path in PROTO.glob("switchboard_rpc/v1/*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *out, plugin, *protos], cwd=PROTO, check=True)

    def generated(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("switchboard_rpc/v1/*_pb2*.py*")}

    fresh, committed = generated(tmp_path), generated(PROTO)
    assert len(fresh) == 3 * len(protos)
    stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    assert stale == [], "run `make proto` and commit what it makes"


def test_nothing_older_than_the_generated_code_can_run_is_let_in() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    messages, services = (PROTO / "switchboard_rpc/v1" / f"fleet_{kind}.py" for kind in ("pb2", "pb2_grpc"))
    [protobuf] = re.findall(r"^# Protobuf Python Version: ([\d.]+)$", messages.read_text(), re.M)
    [grpc] = re.findall(r"^GRPC_GENERATED_VERSION = '([\d.]+)'$", services.read_text(), re.M)

    assert {f"grpcio>={grpc}", f"protobuf>={protobuf}"} <= set(project["project"]["dependencies"])
    assert f"grpcio-tools=={grpc}" in project["dependency-groups"]["test"]


@pytest.mark.parametrize(
    ("file", "was", "becomes", "code"),
    [
        ("stop", r"", "", NOT_BROKEN),
        ("stop", r"\Z", "message Later {\n  string id = 1;\n}\n", NOT_BROKEN),
        ("stop", r"string id = 1;", "string id = 77;", BROKEN),
        ("approval", r"(?m)^  string tool = .*\n", "", BROKEN),
        ("fleet", r"rpc Upload\(stream", "rpc Upload(", BROKEN),
        ("run", r"RUN_STATE_WAITING", "RUN_STATE_PENDING", BROKEN),
    ],
)
def test_what_a_released_daemon_would_not_understand_is_found(
    tmp_path: Path, file: str, was: str, becomes: str, code: int
) -> None:
    shutil.copytree(PROTO, tmp_path / "proto")
    path = tmp_path / "proto" / "switchboard_rpc" / "v1" / f"{file}.proto"
    before = path.read_text()
    after = re.sub(was, becomes, before, count=1) if was else before
    assert (after != before) == bool(was)
    path.write_text(after)
    done = subprocess.run(
        [BIN / "buf", "breaking", "--against", "v1.binpb"], cwd=tmp_path / "proto", capture_output=True, text=True
    )

    assert done.returncode == code, done.stdout + done.stderr
