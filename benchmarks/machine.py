"""Where and from what a figure was measured: every result file says so."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


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
