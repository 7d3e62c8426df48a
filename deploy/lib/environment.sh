# Python environments: a virtual environment from a lock file with hashes, and this project installed in it as a copy.

# make_venv FOLDER LOCK: packages exactly as locked; nothing that is not in the lock is fetched.
make_venv() {
  local folder=$1 lock=$2
  rm -rf -- "$folder"
  umask 022
  "$python" -m venv -- "$folder"
  "$folder/bin/python" -m pip --disable-pip-version-check install --no-input --progress-bar off --require-hashes --no-deps --only-binary :all: -r "$source_tree/$lock"
}

# install_project VENV: the project as a copy, with its assets. Built in a folder of its own, so that the clone stays as it is.
install_project() {
  local venv=$1 build
  umask 022
  build=$(mktemp -d)
  (cd -- "$source_tree" && cp -R pyproject.toml README.md LICENSE session_service storage "$build/")
  find "$build" -type d -name __pycache__ -prune -exec rm -rf -- {} +
  rm -rf -- "$build/session_service/http/assets"
  mkdir -p -- "$build/session_service/http"
  cp -R -- "$(assets_folder)" "$build/session_service/http/assets"
  "$venv/bin/python" -m pip --disable-pip-version-check install --no-input --no-index --no-deps --no-build-isolation --force-reinstall "$build"
  rm -rf -- "$build"
}

# tool_venv NAME LOCK: sets tool to a small environment that brings a program which the machine lacks.
tool_venv() {
  tool=$cache/tools/$1-$(fingerprint "$2")
  [[ -e $tool/.complete ]] && return
  make_venv "$tool" "$2"
  touch -- "$tool/.complete"
}

assets_folder() { printf '%s/assets-%s' "$cache" "$(fingerprint deploy/assets)"; }

# make_assets: noVNC, font and icons from their npm packages, checked against pinned hashes.
make_assets() {
  local folder npm
  folder=$(assets_folder)
  [[ -e $folder/icons.svg ]] && return
  if npm=$(command -v npm) && "$npm" --version; then
    echo "using $npm"
  else
    tool_venv node deploy/node.lock
    npm=$tool/bin/npm PATH=$tool/bin:$PATH
  fi
  rm -rf -- "$folder.new"
  "$python" "$source_tree/deploy/assets/build.py" "$npm" "$folder.new"
  mv -T -- "$folder.new" "$folder"
}

# release: sets release to the folder of this version. Each version has a folder of its own, so that a running service keeps
# the code that it was started with while the next one is installed beside it.
find_release() {
  release=$prefix/releases/$(fingerprint session_service storage pyproject.toml README.md LICENSE requirements.lock deploy/assets deploy/lib/environment.sh)
}

make_release() {
  make_venv "$release" requirements.lock
  make_assets
  install_project "$release"
  touch -- "$release/.complete"
}

# keep_releases: make this one the current one, and remove those that neither are the last before it nor run.
keep_releases() {
  ln -sfnT -- "$release" "$prefix/venv"
  touch -- "$release"
  local old
  while read -r old; do
    grep -qsaF -- "$old/" /proc/[0-9]*/cmdline 2>/dev/null || rm -rf -- "$old"
  done < <(ls -1dt -- "$prefix"/releases/*/ 2>/dev/null | sed 's#/$##' | tail -n +4)
}
