# MinIO: a second real S3 server for tests and for `demo --s3`. Its makers publish source only, so it is built here once.

minio_version=v0.0.0-20260212201848-7aac2a2c5b7c # the last commit its makers published
minio=$cache/minio-${minio_version##*-}/minio
go_least=1.24

make_minio() {
  local go work
  if go=$(command -v go || ls /usr/local/go/bin/go 2>/dev/null) && new_enough "$("$go" env GOVERSION)"; then
    echo "using $go, $("$go" env GOVERSION)"
  else
    tool_venv go deploy/go.lock
    go=$tool/bin/go
  fi
  work=$(dirname -- "$minio").new
  [[ ! -e $work ]] || { chmod -R u+w -- "$work" && rm -rf -- "$work"; }
  mkdir -p -- "$work"
  # Folders of its own: it must neither use nor fill the developer's.
  GOPATH=$work/path GOCACHE=$work/cache GOFLAGS="${GOFLAGS:-} -modcacherw" GOTOOLCHAIN=local CGO_ENABLED=0 GOBIN=$work \
    "$go" install -trimpath -ldflags '-s -w' "github.com/minio/minio@$minio_version"
  rm -rf -- "$work/path" "$work/cache"
  mkdir -p -- "$(dirname -- "$minio")"
  mv -- "$work/minio" "$minio"
  rm -rf -- "$work"
}

new_enough() { [[ $(printf '%s\n' "$go_least" "${1#go}" | sort -V | head -n 1) == "$go_least" ]]; }
