# The running service, seen from outside: started behind the terminal, found again, stopped.

background_log=$state/log/background.log
pid_file=$state/background.pid
start_wait_s=30

# start_time PID: when a process began, as its kernel counts it; with the pid it names a process beyond doubt.
start_time() { sed -E 's/^.*\) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# background_pid: the pid of the service that was started behind the terminal, if it is still the same process.
background_pid() {
  local pid began
  read -r pid began 2>/dev/null <"$pid_file" || return 1
  [[ -n $began && $(start_time "$pid") == "$began" ]] || return 1
  printf '%s' "$pid"
}

# run_behind COMMAND...: start it without a terminal, show its first words, return when it is ready or has failed.
run_behind() {
  local pid shown=0 lines until=$((SECONDS + start_wait_s))
  if pid=$(background_pid); then
    say "It already runs in the background (pid $pid); its output is in $background_log"
    exit 0
  fi
  mkdir -p -- "$(dirname -- "$background_log")"
  : >"$background_log"
  chmod 0600 -- "$background_log"
  setsid --fork bash -c 'echo "$$ $(sed -E "s/^.*\) //" "/proc/$$/stat" | cut -d" " -f20)" >"$1"; shift; exec "$@"' \
    up "$pid_file" "$@" >"$background_log" 2>&1 </dev/null
  while ((SECONDS < until)); do
    lines=$(wc -l <"$background_log")
    if ((lines > shown)); then
      sed -n "$((shown + 1)),${lines}p" -- "$background_log"
      shown=$lines
    fi
    if [[ ! -s $pid_file ]]; then
      sleep 0.1
    elif ! background_pid >/dev/null; then
      fail "session-service ended while it was starting." "Its output is in $background_log"
    elif grep -qE 'https?://|service\.ready' -- "$background_log"; then
      sleep 0.5
      sed -n "$((shown + 1)),\$p" -- "$background_log"
      say "It runs in the background; its output is in $background_log. Stop it with: deploy/down"
      return
    else
      sleep 0.1
    fi
  done
  fail "session-service is not ready after $start_wait_s s." "It goes on trying; its output is in $background_log"
}

# wants_minio ARGS...: whether these arguments of session-service need a MinIO of ours: `demo --s3` without an address.
wants_minio() {
  [[ ${1:-} == demo ]] || return 1
  while (($#)); do
    [[ $1 == --s3 && (-z ${2:-} || ${2:-} == -*) ]] && return 0
    shift
  done
  return 1
}
