#!/usr/bin/env bash
# The Ray job: bash start.sh RUN_DIR. A new run, or the run of that directory from its newest checkpoint, so that
# a job that KubeRay starts again goes on.
set -euo pipefail
run_dir=${1:?usage: start.sh RUN_DIR}
if [ -e "$run_dir/config.toml" ]; then
  exec bonfire train --resume "$run_dir" --address auto
fi
exec bonfire train "$(dirname "$0")/run.toml" "run_dir=$run_dir" --address auto
