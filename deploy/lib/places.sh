# Where things lie: the code and its Python under a prefix, state apart from it, what can be made again in a cache.
# As root everything is readable by the system users to which the running parts drop, so nothing lies in a home folder.

if ((EUID == 0)); then
  prefix=/opt/session-service state=/var/lib/session-service cache=/var/cache/session-service
  test_home=$prefix/test
else
  prefix=${XDG_DATA_HOME:-$HOME/.local/share}/session-service state=$prefix
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/session-service
  test_home=$cache/test
fi
logs=$cache/logs
# A run in the background tells where it lives: two lines, its pid and its start time as the kernel counts it.
pid_file=$state/service.pid
background_log=$state/service.log

# fingerprint PATH...: one hash over the names and contents of files and folders, ours and nobody's caches.
fingerprint() {
  (
    cd -- "$source_tree"
    find "$@" -type d \( -name __pycache__ -o -path session_service/http/assets \) -prune -o -type f ! -name '*.py[co]' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
  )
}
