"""The floors of the house: imports point down, rooms of one floor do not know each other, heavy libraries stay put."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "megatron_eureka"

FLOORS = [
    {"config", "types", "log", "files", "cpu_wheels"},
    {"families"},
    {"answers", "parallel", "planner", "rl", "runs", "weights"},
    {"model", "rewards", "data", "bridge", "checkpoints"},
    {"datasets"},
    {"engines"},
    {"rollout"},
    {"evaluate"},
    {"train"},
    {"cli", "launch", "report", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# On floor 0 the files stand beside each other as one room; the command line puts the faces of the top floor together.
TOGETHER = [FLOORS[0], FLOORS[-1]]

HEAVY = {
    "torch": {room for room in FLOOR if FLOOR[room] > 0} - {"answers", "planner", "rewards"} | {"cpu_wheels", "types"},
    "megatron": {"parallel", "model", "checkpoints", "train"},
    "transformers": {"model", "data", "train"},
    "transformer_engine": {"model"},
    "flash_attn": {"model"},
    "vllm": {"engines"},
    "math_verify": {"answers", "rewards"},
    "scipy": {"evaluate"},
    "openai": {"evaluate"},
}
MEGATRON_FILES = {f"checkpoints/{name}.py" for name in ("megatron_loader", "in_process_writer")}  # of that room
VLLM_FILES = {f"engines/{name}.py" for name in ("colocated", "cpu_worker", "plugin", "token_mask")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py" or path.parent != PACKAGE]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_heavy_libraries_stay_in_their_rooms(path):
    room, where = room_of(path), str(path.relative_to(PACKAGE))
    assert room in FLOOR, f"{room} has no floor: add it to FLOORS and to docs"
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "megatron_eureka" and rest and rest[0] in FLOOR and rest[0] != room:
            other = rest[0]
            beside = any({room, other} <= rooms for rooms in TOGETHER)
            assert FLOOR[other] < FLOOR[room] or beside, f"{where} imports {name}: not below {room}"
        if top in HEAVY:
            assert room in HEAVY[top], f"{where} imports {name}: not allowed in {room}"
        if top == "megatron" and room == "checkpoints":
            assert where in MEGATRON_FILES, f"{where} imports {name}: converting must do without Megatron-Core"
        if room == "rollout":
            assert not name.startswith("torch.distributed"), f"{where} imports {name}: ranks are the engines' business"
        if top == "vllm":
            assert where in VLLM_FILES, f"{where} imports {name}: vLLM belongs in {sorted(VLLM_FILES)}"


# Faces give examples to type; this package's first line says what it is for.
MAY_NAME_A_MODEL = {"families", "model", "cli", "launch"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_models_are_named_in_families_and_model_alone(path):
    if room_of(path) not in MAY_NAME_A_MODEL:
        assert "qwen" not in path.read_text("utf-8").lower()


def test_every_room_is_on_a_floor_and_exists():
    rooms = {room_of(path) for path in FILES}
    assert rooms == set(FLOOR), f"only on disk: {rooms - set(FLOOR)}; only on a floor: {set(FLOOR) - rooms}"


def test_commands_load_what_is_slow_only_where_it_is_needed():
    script = (
        "import sys, megatron_eureka.cli, megatron_eureka.evaluate.session, megatron_eureka.report;"
        "print(*sorted({'scipy', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
