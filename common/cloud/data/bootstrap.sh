# Makes the environment on the machine: Python 3.11 or 3.12, then what `make setup` does. LAB_VENV: one that is there.
set -eu
cd "$HOME/lab"
if [ -n "${LAB_VENV:-}" ]; then
  ln -sfn "$LAB_VENV" .venv
  exit 0
fi
for name in python3.12 python3.11 python3; do
  if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
    python=$name; break
  fi
done
if [ -z "${python:-}" ]; then
  python3 -m pip install --quiet --user uv || pip install --quiet uv
  PATH="$HOME/.local/bin:$PATH"
  uv python install --quiet 3.12
  python=$(uv python find 3.12)
fi
"$python" deploy/install.py .venv
