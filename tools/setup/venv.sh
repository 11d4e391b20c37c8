#!/usr/bin/env bash
# Make .venv with the pinned packages. Says within seconds what this machine lacks; leaves no half-made .venv.
set -euo pipefail
cd "$(dirname "$0")/../.."

NEEDED_GB=7
fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  fail "Python 3.11 or 3.12 is needed, and none of \$PYTHON, python3.11, python3.12, python3 is one ($(python3 --version 2>&1 || echo 'no python3')). Install one, or set PYTHON=/path/to/python3.11."
}

check_disk() {
  local free_gb
  free_gb=$(( $(df -Pk . | awk 'NR==2 {print $4}') / 1024 / 1024 ))
  [ "$free_gb" -ge "$NEEDED_GB" ] || fail "$free_gb GB are free here, $NEEDED_GB GB are needed for .venv and a run. Free some space."
}

# pip resolves torch's CPU build from the configured indexes; on Linux the plain registry has CUDA builds only.
check_cpu_torch() {
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || return 0
  local version
  version=$("$1" -m pip install -qq --dry-run --ignore-installed --no-deps --report - "$2" 2>/dev/null |
    "$1" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])' 2>/dev/null) ||
    fail "pip cannot find $2. Check the network or your pip settings; behind a mirror, set PIP_INDEX_URL."
  case "$version" in
    *+cpu) ;;
    *) fail "pip would install torch $version, a CUDA build of several GB. Give pip PyTorch's CPU index and run again:
       PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make ${MAKECMDGOALS:-demo}" ;;
  esac
}

python=$(find_python)
check_disk
rm -rf .venv
trap '[ -e .venv/.ready ] || rm -rf .venv' EXIT
echo "setup: making .venv with $("$python" --version)"
"$python" -m venv .venv
torch_pin=$(sed -n 's/^TORCH = "\(.*\)"$/\1/p' setup.py)
check_cpu_torch .venv/bin/python "$torch_pin"
echo "setup: installing (about 2 minutes and 4 GB)"
.venv/bin/python -m pip install -qq "$torch_pin"
.venv/bin/python -m pip install -qq -e '.[cpu,demo,dev]'
cp tools/setup/megatron_eureka_cpu_wheels.pth .venv/lib/python3.*/site-packages/ # transformers and vLLM import by themselves too
touch .venv/.ready
echo "setup: ready"
