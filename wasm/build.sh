#!/bin/sh
# Builds the kernels twice, with relaxed SIMD and without, and embeds both in
# src/backend/wasm/kernels.generated.ts. Only needed after a change in wasm/src: the generated module is committed.
#
# Needs Rust with the wasm32 target, wasm-pack and Deno:
#   curl https://sh.rustup.rs -sSf | sh && rustup target add wasm32-unknown-unknown && cargo install wasm-pack
#
# --import-memory         the host makes the memory, one for all threads
# --max-memory            4 GiB, all that 32-bit addresses reach
# --export=__stack_pointer  each thread is given a stack of its own
# no-vectorize-slp        or pairs of pointers would be kept in one 64-bit register and taken out at each use
# The module is linked against an unshared memory (a shared one would have wasm-bindgen add thread-local storage
# and an allocator, and needs a standard library with atomics); embed.ts marks the import as shared.
set -eu
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

build() {
  RUSTFLAGS="-C target-feature=$2 -C no-vectorize-slp \
    -C link-arg=--import-memory -C link-arg=--max-memory=4294967296 \
    -C link-arg=--export=__stack_pointer -C link-arg=-zstack-size=65536" \
    wasm-pack build --release --target web --no-typescript --no-pack --out-dir "target/$1" --out-name kernels
}
build relaxed +simd128,+relaxed-simd
build plain +simd128
[ "${1:-}" = --no-embed ] || deno run --allow-read --allow-write embed.ts
