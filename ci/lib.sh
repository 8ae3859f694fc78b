# What the scripts in ci/ share. Sourced, with set -euo pipefail in force.

farside_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export FARSIDE_CACHE=${FARSIDE_CACHE:-$HOME/.cache/farside}
farside_logs=$farside_root/build/logs
mkdir -p "$farside_logs"

die() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit 1
}

# "0:07", from seconds.
clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

step_names=()
step_seconds=()
step_budgets=()

# step NAME BUDGET_SECONDS COMMAND...: runs it with its output in a log, says how long it took, and
# remembers the time for time_table. On a terminal a line shows that it goes on.
step() {
  local name=$1 budget=$2 log start status=0 pid
  shift 2
  log=$farside_logs/${name//[^a-z0-9]/-}.log
  start=$SECONDS
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  if [ -t 1 ]; then
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r  %-28s %6s  %.60s\033[K' "$name" "$(clock $((SECONDS - start)))" \
        "$(tail -n 1 "$log" | tr -d '\r\033' | tr '\t' ' ')"
      sleep 0.5
    done
    printf '\r\033[K'
  fi
  wait "$pid" || status=$?
  printf '  %-28s %6s  %s\n' "$name" "$(clock $((SECONDS - start)))" \
    "$([ "$status" = 0 ] && echo ok || echo FAILED)"
  step_names+=("$name")
  step_seconds+=($((SECONDS - start)))
  step_budgets+=("$budget")
  if [ "$status" != 0 ]; then
    tail -n "${STEP_TAIL:-60}" "$log"
    printf '%s: step "%s" failed; the whole output is in %s\n' "$(basename "$0")" "$name" \
      "${log#"$farside_root"/}" >&2
    return "$status"
  fi
}

# A row a step: what it took and what it may take. Warns of what is over.
time_table() {
  local i total=0
  printf '\n  %-28s %8s %8s\n' "step" "took" "budget"
  for i in "${!step_names[@]}"; do
    printf '  %-28s %8s %8s%s\n' "${step_names[$i]}" "$(clock "${step_seconds[$i]}")" \
      "$(clock "${step_budgets[$i]}")" \
      "$([ "${step_seconds[$i]}" -le "${step_budgets[$i]}" ] || echo '  OVER BUDGET')"
    total=$((total + step_seconds[i]))
  done
  printf '  %-28s %8s\n' "all" "$(clock "$total")"
}

# configure_and_build PRESET [TARGET...]
configure_and_build() {
  cmake --preset "$1" -S "$farside_root" || return
  cmake --build --preset "$1" ${2:+--target "${@:2}"}
}
