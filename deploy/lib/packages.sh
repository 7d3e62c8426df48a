# System packages, from the lists in deploy/packages: one package a line and why it is there.
# A line may name alternatives (a|b); the first that the system offers is taken.

package_lists() { sed -E '/^(#|$)/d' -- "${@/#/$source_tree/deploy/packages/}"; }

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

offered() { [[ -n $(apt-cache madison "$1" 2>/dev/null) ]]; }

# missing_lines LIST...: the lines whose package is not there.
missing_lines() {
  local names why name
  while read -r names why; do
    for name in ${names//|/ }; do installed "$name" && continue 2; done
    printf '%s %s\n' "$names" "$why"
  done < <(package_lists "$@")
}

# need_packages LIST... | --only PACKAGE: begin to install what is missing; `finish` waits for it.
need_packages() {
  local lines names why name chosen=()
  if [[ $1 == --only ]]; then
    lines="$2 makes the environment that this project's Python packages live in"
  else
    lines=$(missing_lines "$@")
  fi
  [[ -n $lines ]] || return 0
  may_install "$(sed -E 's/[ |].*//' <<<"$lines" | tr '\n' ' ')"
  update_lists
  while read -r names why; do
    for name in ${names//|/ }; do
      offered "$name" || continue
      chosen+=("$name")
      detail "$name: $why"
      continue 2
    done
    fail "this system offers none of: ${names//|/, } ($why)." "$(no_offer "$names")"
  done <<<"$lines"
  detail "$(apt_plan "${chosen[@]}")"
  start apt "system packages (${#chosen[@]})" as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
    apt-get -q -y "${apt_wait[@]}" -o Dpkg::Options::=--force-confold install --no-install-recommends -- "${chosen[@]}"
}

# may_install PACKAGES: end with what to tell somebody who may, where we may not.
may_install() {
  may_be_root && return
  fail "system packages are missing, and you may not install them (not root, and sudo is missing or refuses)." \
    "Ask somebody who may to run:" "  apt-get update && apt-get install --no-install-recommends $1" "and then run the same command again."
}

may_update_lists() {
  may_install python3-venv
  update_lists
}

apt_wait=(-o DPkg::Lock::Timeout=300)
lists_updated=''

# update_lists: once per run; a new machine has none, and old ones name versions that are gone.
update_lists() {
  [[ -z $lists_updated ]] || return 0
  start apt-update "list of system packages" as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "${apt_wait[@]}" update
  finish
  lists_updated=1
}

# apt_plan PACKAGE...: what apt will fetch and how much room it takes; the wording changed with apt 3.
apt_plan() {
  { LC_ALL=C apt-get install --no-install-recommends --assume-no -- "$@" 2>/dev/null || true; } | sed -nE \
    -e 's/^(Need to get|  Download size:) ([0-9.,]+ ?[kMG]?B).*/to fetch: \2/p' \
    -e 's/^(After this operation,|  Space needed:) ([0-9.,]+ ?[kMG]?B).*/; on the disk afterwards: \2/p' | tr -d '\n'
}

no_offer() {
  if [[ $1 == chromium && $(. /etc/os-release && printf '%s' "$ID") == ubuntu ]]; then
    printf 'Ubuntu has Chromium only as a snap, which cannot run in the sandbox of a desktop; use Debian for it.'
  else
    printf 'Debian 12 and 13 have it in main; on Ubuntu: sudo add-apt-repository universe'
  fi
}

# venv_package: what python's venv module lacks, if anything.
venv_package() {
  "$python" -c 'import ensurepip, venv' 2>/dev/null && return
  "$python" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")' 2>/dev/null || printf '%s-venv\n' "${python##*/}"
}
