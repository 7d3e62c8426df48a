# Where things lie: code with its Python under a prefix, state apart from it, and in a cache what can be made again.
# As root the code lies where the system users can read it to which the running parts drop, so not in a home folder.

if ((EUID == 0)); then
  home=$(getent passwd 0 | cut -d: -f6)
  prefix=/opt/session-service state=/var/lib/session-service test_home=/opt/session-service/test
else
  home=${HOME:-$(getent passwd "$EUID" | cut -d: -f6)}
  prefix=${XDG_DATA_HOME:-$home/.local/share}/session-service state=$prefix
fi
cache=${XDG_CACHE_HOME:-$home/.cache}/session-service
: "${test_home:=$cache/test}"
logs=$cache/logs

# fingerprint PATH...: one hash over the names and contents of files and folders of this tree; caches and built assets left out.
fingerprint() {
  (
    cd -- "$source_tree"
    find "$@" -type d \( -name __pycache__ -o -path session_service/http/assets \) -prune -o -type f ! -name '*.py[co]' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum -- | sha256sum | cut -c1-16
  )
}
