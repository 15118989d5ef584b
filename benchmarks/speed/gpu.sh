#!/usr/bin/env bash
# Settles what the GPU engine is worth on this machine: parity, scoring, training and generation in at most eight minutes.
#
#     bash benchmarks/speed/gpu.sh                        # prints one Markdown table, writes build/gpu.json
#     bash benchmarks/speed/gpu.sh --parts parity scoring # arguments are those of benchmarks/speed/gpu.py
#
# PYTHON names the interpreter (default: the one of .venv if there is one, else python3). A folder .gpu with setup.sh and env.sh,
# which bring packages, weights and collections to a machine without network, is used if it exists (KIT names another).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
KIT=${KIT:-.gpu}
if [ -f "$KIT/setup.sh" ] && [ -f "$KIT/env.sh" ]; then
  bash "$KIT/setup.sh"
  . "$KIT/env.sh"
fi
if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
export TOKENIZERS_PARALLELISM=true PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD"
exec "$PYTHON" -m benchmarks.speed.gpu "$@"
