#!/bin/sh
# The GPU's tests and benchmark on a machine that can fetch nothing and has no Deno, only python3 and the driver.
#
#   ffi/bare.sh pack             where there is a network: puts Deno, compressed, and the tokenizer library into .bare/
#   ffi/bare.sh test  [folder]   there, in this checkout with .bare/: deno task test:gpu, its output also to the folder
#   ffi/bare.sh bench [folder]   likewise deno task bench:gpu, with its report
set -eu
cd "$(dirname "$0")/.."
deno=${TMPDIR:-/tmp}/specdiff-bare/deno

unpack() {
  [ -x "$deno" ] || python3 - .bare/deno.xz "$deno" <<'PYTHON'
import lzma, os, shutil, sys
os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True)
with lzma.open(sys.argv[1]) as packed, open(sys.argv[2] + ".part", "wb") as out:
    shutil.copyfileobj(packed, out, 1 << 20)
os.chmod(sys.argv[2] + ".part", 0o755)
os.rename(sys.argv[2] + ".part", sys.argv[2])
PYTHON
  # what other scripts of the repository need is not there, so it must not be asked for
  cp deno.lock .bare/deno.lock.before
  trap 'cp .bare/deno.lock.before deno.lock' EXIT
  cp .bare/deno.lock deno.lock
  DENO_DIR=$(dirname "$deno")/cache
  mkdir -p "$DENO_DIR" && cp -r .bare/npm "$DENO_DIR/"
  PATH=$(dirname "$deno"):$PATH
  HTTPS_PROXY=http://127.0.0.1:9 # what would be fetched fails at once
  export DENO_DIR PATH HTTPS_PROXY
}

out=${2:-.bare/out}
case ${1:-} in
pack)
  mkdir -p .bare
  rm -rf .bare/fresh .bare/deno.lock
  DENO_DIR=$PWD/.bare/fresh deno install --lock=.bare/deno.lock --entrypoint tests/gpu/main.ts bench/gpu/main.ts
  rm -rf .bare/npm && mv .bare/fresh/npm .bare/npm && rm -rf .bare/fresh
  xz --x86 --lzma2=preset=9e,dict=128MiB -c "$(readlink -f "$(command -v deno)")" >.bare/deno.xz
  du -sh .bare
  ;;
test)
  unpack
  mkdir -p "$out"
  { deno task test:gpu || echo "exit $?"; } 2>&1 | tee "$out/test.log"
  ;;
bench)
  unpack
  mkdir -p "$out"
  { deno task bench:gpu || echo "exit $?"; } 2>&1 | tee "$out/bench.log"
  cp bench/reports/nvidia-* "$out/" || true
  ;;
*)
  sed -n 's/^# \{0,1\}//p' "$0" | sed 1d
  exit 2
  ;;
esac
