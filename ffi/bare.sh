#!/usr/bin/env bash
# The GPU's tests and benchmark on a machine that can fetch nothing and has no Deno, only bash, python3 and the driver.
#
#   ffi/bare.sh pack                        where there is a network: makes .bare anew, with this script and, in one
#                                           archive, Deno and all that is needed of the checkout and of npm
#   .bare/bare.sh test  [folder [option…]]  there, with nothing but .bare: deno task test:gpu
#   .bare/bare.sh bench [folder [option…]]  likewise deno task bench:gpu
#   .bare/bare.sh all   [folder]            within ten minutes: doctor, the tests, the benchmark, then what
#                                           compute-sanitizer finds; what was done by then is in the folder
#
# What is printed also goes to the folder, with the benchmark's report; it is .bare/out unless it is named.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
most=$((64 << 20)) # bytes that such machines take

# What is needed of the checkout.
files() {
  git ls-files -co --exclude-standard -- mod.ts cli.ts deno.json deno.lock src ffi bench tests tools fixtures \
    ':!bench/peers' ':!bench/reports' ':!tests/*_test.ts'
}

pack() {
  cd "$here/.."
  rm -rf .bare
  mkdir -p .bare/cache
  DENO_DIR=$PWD/.bare/cache deno install --frozen
  deno eval 'Deno.copyFileSync(Deno.execPath(), ".bare/deno")'
  files | tar -c .bare/deno .bare/cache/npm -T - | xz --x86 --lzma2=preset=9e,dict=128MiB >.bare/packed.tar.xz
  rm -r .bare/deno .bare/cache
  cp ffi/bare.sh .bare/
  bytes=$(cat .bare/* | wc -c)
  if ((bytes > most)); then
    echo "Cannot take .bare to such a machine: $bytes bytes found, expected at most $most" >&2
    exit 1
  fi
  echo ".bare has $bytes bytes, of at most $most"
}

unpack() {
  mkdir -p "$1"
  out=$(cd "$1" && pwd)
  tree=${TMPDIR:-/tmp}/specdiff-bare
  rm -rf "$tree"
  python3 -m tarfile -e "$here/packed.tar.xz" "$tree"
  cd "$tree"
  export DENO_DIR=$tree/.bare/cache PATH=$tree/.bare:$PATH
  export HTTPS_PROXY=http://127.0.0.1:9 # what would be fetched fails at once
  # where PyTorch brought cuBLAS, though nobody entered its environment
  [ -n "${VIRTUAL_ENV:-}" ] || VIRTUAL_ENV=$(python3 -c 'import sys; print(sys.prefix)')
  export VIRTUAL_ENV
}

# Runs a command for so many seconds at most; what it prints also goes to the log of that name.
logged() {
  local log=$out/$1.log seconds=$2
  shift 2
  timeout -k 5 "$seconds" "$@" 2>&1 | tee "$log"
}

# Whether a command was ended as its time was over.
late() { [ "$1" = 124 ] || [ "$1" = 137 ]; }

tests() { logged "$1" "$2" deno task test:gpu --require-gpu "${@:3}"; }
benchmark() { logged bench "$1" deno task bench:gpu --require-gpu --folder "$out" "${@:2}"; }

case ${1:-} in
files | pack) "$1" ;;
test)
  unpack "${2:-$here/out}"
  tests test 590 "${@:3}"
  ;;
bench)
  unpack "${2:-$here/out}"
  benchmark 590 "${@:3}"
  ;;
all)
  unpack "${2:-$here/out}"
  status=0
  # what it is late with is no fault: the libraries may come from a slow disk for the first time, and the tests tell more
  logged doctor 40 deno run --cached-only --allow-read --allow-env --allow-sys --allow-ffi cli.ts doctor ||
    late $? || status=1
  tests test 290 --skip compute-sanitizer "${@:3}" || status=$?
  # where a check fails unless kernels wait for one another, they are measured so
  if grep -q '^ok  .*, with plain launches  ' "$out/test.log"; then
    export SPECDIFF_PLAIN_LAUNCHES=1
    echo "from here on with plain launches: a check failed without, and passes so"
  fi
  benchmark 210 "${@:3}" || status=$?
  left=$((580 - SECONDS))
  if ((left > 20)); then
    tests sanitizer "$left" --only compute-sanitizer "${@:3}" || status=$?
  else
    echo "compute-sanitizer is left out: $left s are left"
  fi
  exit "$status"
  ;;
*)
  sed -n 's/^# \{0,1\}//p' "$0" | sed '1d;/^What is needed/,$d'
  exit 2
  ;;
esac
