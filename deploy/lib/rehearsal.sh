# What tests and benchmarks need beside the service itself; the environment is apart from the one that serves.

test_venv=$test_home/venv

prepare_tests() {
  local locked installed_now packages
  need_linux
  mkdir -p -- "$test_home"
  # One run at a time may change or use the environment. The lock ends with this script.
  exec 9>"$test_home/lock"
  if ! flock -n 9; then
    say "another run of the tests uses $test_home; waiting for it"
    flock 9
  fi
  locked=$(fingerprint requirements-dev.lock deploy/lib/environment.sh)
  installed_now=$(fingerprint session_service storage pyproject.toml README.md LICENSE deploy/assets)
  packages=$(missing_lines desktop.txt test.txt)
  if [[ -n $packages || ! -x $minio || ! -e $test_home/$locked.venv ]]; then
    heading "Preparing this machine for the tests (done once)"
    need_room "$free_mb_test"
    need_venv_support
    need_packages desktop.txt test.txt
    if [[ ! -e $test_home/$locked.venv ]]; then
      rm -f -- "$test_home"/*.venv "$test_home"/*.project
      start venv "Python packages of requirements-dev.lock, each checked against its hash" make_venv "$test_venv" requirements-dev.lock
    fi
    [[ -e $(assets_folder) ]] || start assets "noVNC, font and icons for the pages, from npm" make_assets
    [[ -x $minio ]] || start minio "MinIO, a real S3 server, built from source (two minutes on two cores)" make_minio
    finish
    touch -- "$test_home/$locked.venv"
    say "environment of the tests: $test_venv ($(megabytes "$test_venv") MB); MinIO: $(megabytes "$minio") MB"
  fi
  make_users
  if [[ ! -e $test_home/$installed_now.project ]]; then
    find_python
    rm -f -- "$test_home"/*.project
    [[ -e $(assets_folder) ]] || start assets "noVNC, font and icons for the pages, from npm" make_assets
    finish
    start project "this tree, installed as a copy" install_project "$test_venv"
    finish
    touch -- "$test_home/$installed_now.project"
  fi
  look_at_sandbox
  PATH=$test_venv/bin:$PATH
  export PYTHONSAFEPATH=1 SESSION_SERVICE_TEST_INSTALLED=1 SESSION_SERVICE_TEST_MINIO=$minio
  SESSION_SERVICE_TEST_CHROMIUM=$(command -v chromium)
  SESSION_SERVICE_TEST_WEED=$test_venv/bin/weed
  export SESSION_SERVICE_TEST_CHROMIUM SESSION_SERVICE_TEST_WEED
}
