# The machine: what it is, what it can do, and what its owner should do where it cannot.

kernel_least=5.10 # pidfds, clone3 and the cgroup files that desktops are watched with
free_mb_up=1200 free_mb_test=3500

# need_linux: Linux with apt, of a kernel that can hold desktops.
need_linux() {
  [[ $(uname -s) == Linux ]] || fail "this is $(uname -s); desktops need Linux." "Use a Debian 12 or 13 or an Ubuntu machine, a virtual one will do."
  local kernel
  kernel=$(uname -r)
  [[ $(printf '%s\n' "$kernel_least" "${kernel%%-*}" | sort -V | head -n 1) == "$kernel_least" ]] ||
    fail "this kernel is $kernel; $kernel_least or newer is needed." "Upgrade the system (Debian 12 has 6.1) and restart the machine."
  command -v apt-get >/dev/null ||
    fail "apt-get is missing; these scripts install packages on Debian and Ubuntu." "On another system install the packages named in deploy/packages/ by hand; docs/running.md says how to go on."
}

# need_room MB: disk for what will be installed.
need_room() {
  local need=$1 place free
  for place in / "$(existing "$prefix")" "$(existing "$cache")"; do
    free=$(df -Pm -- "$place" | awk 'NR==2 {print $4}')
    ((free >= need)) || fail "only $free MB are free on the disk of $place; $need MB are needed." "Make room and run the same command again."
  done
}

# may_be_root: whether commands of root can be run, asked once.
may_be_root() {
  ((EUID == 0)) && return
  command -v sudo >/dev/null || return 1
  sudo -n true 2>/dev/null && return
  [[ -t 0 && -t 2 ]] || return 1
  say "System packages are to be installed; sudo asks for your password."
  sudo -v
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# find_python: sets python to one that is new enough and that the system users may run; fails where there is none.
find_python() {
  local candidate names=(python3 python3.14 python3.13 python3.12 python3.11)
  for candidate in "${names[@]/#//usr/bin/}" "${names[@]}"; do
    candidate=$(command -v "$candidate") || continue
    # As root a Python in a home folder (pyenv) will not do: the running parts are not root and cannot read it.
    if ((EUID == 0)) && ! open_to_all "$(readlink -f -- "$candidate")"; then continue; fi
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || continue
    python=$candidate
    return
  done
  return 1
}

# offered_python: the package with the newest Python that we can use and this system offers.
offered_python() {
  local name
  for name in python3.14-venv python3.13-venv python3.12-venv python3.11-venv; do
    offered "$name" && printf '%s' "$name" && return
  done
  fail "Python 3.11 or newer is needed; this machine has $(python3 -V 2>/dev/null || echo none) and offers no newer one." \
    "Debian 12 and 13 and Ubuntu from 24.04 bring one; on Ubuntu 22.04 it is in universe: sudo add-apt-repository universe"
}

# open_to_all PATH: whether every user may pass all folders above it.
open_to_all() {
  local path=$1
  while [[ $path != / ]]; do
    path=$(dirname -- "$path")
    (($(stat -c '0%a' -- "$path") & 1)) || return 1
  done
}

# look_at_sandbox: say now what would refuse every desktop later.
look_at_sandbox() {
  command -v bwrap >/dev/null || return 0
  bwrap --unshare-user --unshare-pid --ro-bind / / --proc /proc true 2>/dev/null && return
  local remedy=("The service starts, but refuses desktops until this is mended; session-service doctor says more.")
  if [[ $(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2>/dev/null) == 1 ]]; then
    remedy+=("AppArmor forbids them here: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (and the same line in a file of /etc/sysctl.d).")
  elif [[ $(cat /proc/sys/kernel/unprivileged_userns_clone 2>/dev/null) == 0 ]]; then
    remedy+=("The kernel is told to forbid them: sudo sysctl -w kernel.unprivileged_userns_clone=1 (and the same line in a file of /etc/sysctl.d).")
  elif [[ $(cat /proc/sys/user/max_user_namespaces 2>/dev/null) == 0 ]]; then
    remedy+=("The kernel is told to forbid them: sudo sysctl -w user.max_user_namespaces=15000 (and the same line in a file of /etc/sysctl.d).")
  else
    remedy+=("In a container: start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or use a virtual machine.")
  fi
  warn "user namespaces do not work on this machine, and each desktop's sandbox needs them." "${remedy[@]}"
}

# make_users: the system users to which the running parts drop, so that the one facing the network and the one reading files are nobody.
make_users() {
  ((EUID == 0)) || return 0
  local name
  for name in session-service session-worker session-gateway; do
    id -u "$name" >/dev/null 2>&1 && continue
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$name"
    say "user $name: made, so that this part does not run as root"
  done
}
