# Messages of the deploy scripts: progress with elapsed time, and failures that say what to do.
# Progress goes to standard error, so that standard output belongs to the program that is started.

started_at=$SECONDS
if [[ -t 2 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' red='' green='' plain=''; fi

elapsed() { printf '%3d s' $((SECONDS - started_at)); }

# say TEXT: one line of progress.
say() { printf '%s[%s]%s %s\n' "$dim" "$(elapsed)" "$plain" "$*" >&2; }

# heading TEXT: what a script is about to do.
heading() { printf '%s%s%s\n' "$bold" "$*" "$plain" >&2; }

# detail TEXT: belongs to the line before.
detail() { printf '        %s%s%s\n' "$dim" "$*" "$plain" >&2; }

# fail WHAT [WHAT TO DO...]: the end of the script.
fail() {
  printf '\n%sNot possible: %s%s\n' "$red" "$1" "$plain" >&2
  shift
  local line
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

# megabytes PATH: the size of a folder, for people.
megabytes() { du -sm -- "$1" 2>/dev/null | cut -f1; }

# quietly TITLE LOG COMMAND...: run a long command with its output in LOG; shows that it lives, and its last words if it dies.
quietly() {
  local title=$1 log=$2 began=$SECONDS status=0 told=$SECONDS
  shift 2
  mkdir -p -- "$(dirname -- "$log")"
  "$@" >"$log" 2>&1 </dev/null &
  local pid=$!
  # A stopped script takes its command along, so that nothing goes on installing behind the user's back.
  trap 'kill "$pid" 2>/dev/null || true; exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    if [[ -t 2 ]]; then
      printf '\r%s[%s]%s %s … %d s ' "$dim" "$(elapsed)" "$plain" "$title" $((SECONDS - began)) >&2
    elif ((SECONDS - told >= 30)); then
      say "$title: still at it after $((SECONDS - began)) s"
      told=$SECONDS
    fi
    read -rt 0.2 <> <(:) || true
  done
  wait "$pid" || status=$?
  trap - INT TERM
  [[ -t 2 ]] && printf '\r\e[K' >&2
  if ((status == 0)); then
    say "$title ${green}done${plain} ($((SECONDS - began)) s)"
  else
    say "$title ${red}failed${plain} after $((SECONDS - began)) s; the last lines of $log:"
    tail -n 15 -- "$log" | sed 's/^/        /' >&2
  fi
  return "$status"
}
