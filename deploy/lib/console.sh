# Messages of the deploy scripts: progress with elapsed time, work side by side, and failures that say what to do.
# Progress goes to standard error, so that standard output belongs to the program that is started.

started_at=$SECONDS
if [[ -t 2 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' dim='' red='' green='' plain=''
fi

# say TEXT: one line of progress.
say() { printf '%s[%3d s]%s %s\n' "$dim" $((SECONDS - started_at)) "$plain" "$*" >&2; }

# heading TEXT: what a script is about to do.
heading() { printf '%s%s%s\n' "$bold" "$*" "$plain" >&2; }

# detail TEXT: belongs to the line before.
detail() { printf '        %s%s%s\n' "$dim" "$*" "$plain" >&2; }

# warn WHAT [WHAT TO DO...]: goes on, but something will be missing.
warn() {
  printf '%sAttention: %s%s\n' "$bold" "$1" "$plain" >&2
  shift
  (($# == 0)) || printf '  %s\n' "$@" >&2
}

# fail WHAT [WHAT TO DO...]: the end of the script.
fail() {
  printf '\n%sNot possible: %s%s\n' "$red" "$1" "$plain" >&2
  shift
  (($# == 0)) || printf '  %s\n' "$@" >&2
  exit 1
}

# megabytes PATH: the size of a file or folder, for people.
megabytes() { du -sm -- "$1" 2>/dev/null | cut -f1; }

# Work that goes on side by side. start NAME TITLE COMMAND... begins it with its output in a log; finish waits for all of it
# and fails when one of them failed, with its last words and, where `explain NAME LOG` knows it, the reason in plain words.
declare -A work_pid=() work_title=() work_began=()

start() {
  local name=$1 title=$2
  shift 2
  mkdir -p -- "$logs"
  say "$title …"
  # A process group of its own, so that a stopped script takes the whole of it along.
  set -m
  ("$@") >"$logs/$name.log" 2>&1 </dev/null &
  work_pid[$name]=$!
  set +m
  work_title[$name]=$title work_began[$name]=$SECONDS
  trap stop_work EXIT
  trap 'exit 130' INT TERM
}

stop_work() {
  local name
  for name in "${!work_pid[@]}"; do kill -- "-${work_pid[$name]}" 2>/dev/null || true; done
}

finish() {
  local name status failed='' told=$SECONDS columns
  columns=$(stty size 2>/dev/null </dev/tty | cut -d' ' -f2) || true
  ((${columns:-0} > 40)) || columns=80
  while ((${#work_pid[@]})); do
    for name in "${!work_pid[@]}"; do
      kill -0 "${work_pid[$name]}" 2>/dev/null && continue
      status=0
      wait "${work_pid[$name]}" || status=$?
      unset "work_pid[$name]"
      [[ -t 2 ]] && printf '\r\e[K' >&2
      if ((status == 0)); then
        say "${work_title[$name]}: ${green}done${plain} in $((SECONDS - work_began[$name])) s"
      else
        say "${work_title[$name]}: ${red}failed${plain}; the last lines of $logs/$name.log:"
        tail -n 15 -- "$logs/$name.log" | sed 's/^/        /' >&2
        failed=$name
      fi
    done
    [[ -z $failed ]] || break
    ((${#work_pid[@]})) || break
    if [[ -t 2 ]]; then
      # No longer than the window is wide, or the line could not be written over.
      printf '\r%s[%3d s] still at: %.*s%s\e[K' "$dim" $((SECONDS - started_at)) "$((columns - 22))" "$(work_left)" "$plain" >&2
    elif ((SECONDS - told >= 20)); then
      say "still at: $(work_left)"
      told=$SECONDS
    fi
    sleep 0.2
  done
  trap - EXIT INT TERM
  [[ -z $failed ]] && return
  stop_work
  explain "$failed" "$logs/$failed.log"
}

work_left() {
  local name text=''
  for name in "${!work_pid[@]}"; do text+="${text:+, }${work_title[$name]} ($((SECONDS - work_began[$name])) s)"; done
  printf '%s' "$text"
}

# explain NAME LOG: end with the reason of a failure in plain words.
explain() {
  local name=$1 log=$2
  if grep -qiE 'no space left on device|not enough free space' -- "$log"; then
    fail "the disk is full." "Make room and run the same command again; what is done stays done." "$(df -h / "$(existing "$prefix")" 2>/dev/null | tail -n +2 | sort -u)"
  elif grep -qiE 'could not resolve|temporary failure|network is unreachable|name or service not known|connection (refused|timed out)|failed to fetch|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|no such host|i/o timeout' -- "$log"; then
    fail "a package source cannot be reached." "This needs Debian's or Ubuntu's packages, the Python package index and npm, directly or through mirrors." \
      "Check the network (a proxy goes into http_proxy and https_proxy) and run the same command again; what is done stays done."
  elif grep -qiE 'could not get lock|unable to acquire the dpkg' -- "$log"; then
    fail "another program is installing packages right now." "Wait until it is done (unattended-upgrades takes some minutes on a new machine) and run the same command again."
  elif grep -qiE 'do not match the hashes|is not the reviewed one' -- "$log"; then
    fail "a package differs from the one that was reviewed." "Nothing of it was installed. If you use a mirror, it serves something else; please report it."
  fi
  fail "${work_title[$name]} failed." "The whole output is in $log"
}

# existing PATH: the path or the nearest folder above it that is there.
existing() {
  local path=$1
  while [[ ! -e $path ]]; do path=$(dirname -- "$path"); done
  printf '%s' "$path"
}
