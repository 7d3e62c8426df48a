# What has to be there before the service runs: system packages, users, and this version of the code with its Python and its assets.
# Every step looks first whether it is done, so that the whole costs a moment when nothing changed.

# prepare LIST...: everything for `up`; sets release.
prepare() {
  need_linux
  find_release
  local packages
  packages=$(missing_lines "$@")
  if [[ -z $packages && -e $release/.complete ]]; then
    make_users
    return
  fi
  heading "Preparing this machine (done once; a later start takes a moment)"
  need_room "$free_mb_up"
  need_venv_support
  need_packages "$@"
  [[ -e $packages_of_lock/.complete ]] || start packages "Python packages of requirements.lock, each checked against its hash" make_packages
  [[ -e $(assets_folder) ]] || start assets "noVNC, font and icons for the pages, from npm" make_assets
  finish
  make_users
  if [[ ! -e $release/.complete ]]; then
    start project "session-service itself" make_release
    finish
  fi
  say "Python packages: $(megabytes "$packages_of_lock") MB in $packages_of_lock"
  detail "session-service: $(megabytes "$release") MB in $release"
}

# need_venv_support: a Python that can make environments; Debian and Ubuntu leave that part out of a plain installation.
need_venv_support() {
  local lacking
  if ! find_python; then
    may_update_lists
    lacking=$(offered_python)
    need_packages --only "$lacking"
    finish
    find_python || fail "no Python that fits was found." "Install Python 3.11 or newer under /usr and run the same command again."
  fi
  lacking=$(venv_package)
  [[ -z $lacking ]] && return
  need_packages --only "$lacking"
  finish
}
