# Python environments: a virtual environment from a lock file with hashes, and this project installed in it as a copy.

# make_venv FOLDER LOCK: packages exactly as locked; nothing that is not in the lock is fetched.
make_venv() {
  local folder=$1 lock=$2
  rm -rf -- "$folder"
  umask 022
  "$python" -m venv -- "$folder"
  "$folder/bin/python" -m pip --disable-pip-version-check install --no-input --progress-bar off --require-hashes --no-deps --only-binary :all: -r "$source_tree/$lock"
}

# install_project VENV [PIP]: the project as a copy, with its assets, by a pip of another environment if it has none of its own.
# Built in a folder of its own, so that the clone stays as it is.
install_project() {
  local venv=$1 pip=${2:-$1} build
  umask 022
  build=$(mktemp -d)
  (cd -- "$source_tree" && cp -R pyproject.toml README.md LICENSE session_service storage "$build/")
  find "$build" -type d -name __pycache__ -prune -exec rm -rf -- {} +
  rm -rf -- "$build/session_service/http/assets"
  mkdir -p -- "$build/session_service/http"
  cp -R -- "$(assets_folder)" "$build/session_service/http/assets"
  "$pip/bin/python" -m pip --python "$venv/bin/python" --disable-pip-version-check install --no-input --no-index --no-deps --no-build-isolation --force-reinstall "$build"
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

# A version of this project is a small environment of its own over the packages of its lock file, which versions share: a running
# service keeps the code that it was started with while the next version is installed beside it.

# find_release: sets release and, below it, packages_of_lock.
find_release() {
  packages_of_lock=$prefix/packages/$(fingerprint requirements.lock)
  release=$prefix/releases/$(fingerprint session_service storage pyproject.toml README.md LICENSE requirements.lock deploy/assets deploy/lib/environment.sh)
}

make_packages() {
  make_venv "$packages_of_lock" requirements.lock
  touch -- "$packages_of_lock/.complete"
}

make_release() {
  umask 022
  rm -rf -- "$release"
  "$packages_of_lock/bin/python" -m venv --without-pip -- "$release"
  local inner
  inner=$("$release/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf '%s\n' "${inner/#"$release"/"$packages_of_lock"}" >"$inner/packages.pth"
  printf '%s\n' "$packages_of_lock" >"$release/.packages"
  install_project "$release" "$packages_of_lock"
  touch -- "$release/.complete"
}

# keep_releases: make this version the current one, and remove those that are neither one of the three newest nor running.
keep_releases() {
  ln -sfnT -- "$release" "$prefix/venv"
  touch -- "$release"
  local old
  while read -r old; do
    # By standard input, or grep would find the path in its own arguments.
    grep -qsaFf - /proc/[0-9]*/cmdline <<<"$old/" || rm -rf -- "$old"
  done < <(find "$prefix/releases" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d' ' -f2-)
  while read -r old; do
    grep -qsxF -- "$old" "$prefix"/releases/*/.packages || rm -rf -- "$old"
  done < <(find "$prefix/packages" -mindepth 1 -maxdepth 1 -type d)
}
