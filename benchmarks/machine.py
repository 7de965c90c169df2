"""Where and from what a figure was measured, which every result file says; and the peers' own environments."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / ".peers"


def machine() -> dict[str, Any]:
    row: dict[str, Any] = {
        "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()
    }  # fmt: skip
    if (info := Path("/proc/cpuinfo")).exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        row["cpu"] = fields.get("model name", platform.processor())
        telling = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
        row["flags"] = [flag for flag in telling if flag in fields.get("flags", "").split()]
    return row


def commit() -> str:
    """Short hash of the checkout, with `+` where more than results has changed."""
    git = ["git", "-C", str(ROOT)]
    done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changes = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"]
    changed = subprocess.run(changes, capture_output=True, text=True)
    return done.stdout.strip() + ("+" if changed.stdout.strip() else "")


def environment_python(name: str) -> Path:
    """The Python of a peer's virtual environment."""
    return PEERS / name / "bin" / "python"


def environment(name: str, torch_index: str | None = None) -> Path:
    """A peer's Python, from `peers/requirements-NAME.txt`; made anew after these changed."""
    folder, requirements = PEERS / name, ROOT / "benchmarks" / "peers" / f"requirements-{name}.txt"
    stamp = folder / "requirements.txt"
    if not (stamp.exists() and stamp.read_text() == requirements.read_text()):
        say(f"making {folder} (minutes)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [environment_python(name), "-m", "pip", "install", "--quiet"]
        # torch first and alone, so that a CPU build chosen here is not replaced when the rest is resolved.
        for torch in (line for line in requirements.read_text().splitlines() if line.startswith("torch==")):
            subprocess.run([*pip, torch, *(["--index-url", torch_index] if torch_index else [])], check=True)
        subprocess.run([*pip, "-r", requirements], check=True)
        stamp.write_text(requirements.read_text())
    return environment_python(name)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
