# The running service, seen from outside: started behind the terminal, found again, stopped.

state=${SESSION_SERVICE_STATE_FOLDER:-$state}
background_log=$state/background.log
start_wait_s=60

# running_pid: the first process of the service, by the note that it keeps; a number alone is not believed, since the kernel
# gives it to another process later, so its start time is compared too.
running_pid() {
  local note pid began
  note=$(cat -- "$state/run/parent.json" 2>/dev/null) || return 1
  pid=$(sed -nE 's/.*"pid": *([0-9]+).*/\1/p' <<<"$note")
  began=$(sed -nE 's/.*"start_time": *([0-9]+).*/\1/p' <<<"$note")
  [[ -n $pid && -n $began && $(sed -E 's/^.*\) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f20) == "$began" ]] || return 1
  printf '%s' "$pid"
}

# run_behind COMMAND...: start it without a terminal, show what it says to people, return when it is ready or has failed.
run_behind() {
  local pid until=$((SECONDS + start_wait_s))
  mkdir -p -- "$state"
  (umask 077 && : >"$background_log")
  setsid -- "$@" >"$background_log" 2>&1 </dev/null &
  pid=$!
  disown "$pid"
  while ((SECONDS < until)); do
    if ! kill -0 "$pid" 2>/dev/null; then
      tail -n 15 -- "$background_log" >&2
      fail "session-service ended while it was starting." "Its output is in $background_log"
    elif grep -q 'service\.ready' -- "$background_log"; then
      sleep 0.3 # the text for people follows the event
      grep -v '^{' -- "$background_log" || true
      say "It runs in the background (process $pid); its output goes to $background_log. Stop it with: deploy/down"
      return
    fi
    sleep 0.1
  done
  fail "session-service is not ready after $start_wait_s s." "It goes on trying; its output is in $background_log"
}

# look_at_port ARGS...: say who has the port before the service finds out.
look_at_port() {
  local port=${SESSION_SERVICE_LISTEN__PORT:-8080} pid
  while (($#)); do
    case $1 in
      --port=* | listen.port=*) port=${1#*=} ;;
      --port) port=${2:-$port} ;;
    esac
    shift
  done
  if pid=$(running_pid); then
    fail "session-service runs already (process $pid)." "Stop it with deploy/down, which leaves its desktops; or go on using it."
  fi
  [[ $port =~ ^[0-9]+$ ]] && ((port > 0)) || return 0
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    fail "another program uses port $port$(port_owner "$port")." "Stop that program, or take another port: deploy/up -- --port $((port + 1))"
  fi
}

port_owner() {
  local owner
  owner=$(ss -Hltnp "sport = :$1" 2>/dev/null | sed -nE 's/.*users:\(\("([^"]+)",pid=([0-9]+).*/\1, process \2/p' | head -n 1)
  printf '%s' "${owner:+ ($owner)}"
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
