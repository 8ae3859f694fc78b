#!/bin/bash -eu
# Builds the fuzz targets as OSS-Fuzz does: with the compiler, the flags and the engine that the
# environment names, into $OUT; $SRC/farside is the tree, $WORK is for what comes in between.
# ci/oss-fuzz-check runs the same without OSS-Fuzz's image.
#
# MemorySanitizer is for that image only, and not yet: it takes each load of bytes that no
# instrumented code wrote for uninitialized, so that every library below us (libfmt, Boost, zstd,
# libjsonnet, the C++ library itself) must be built with it. The image has such a libc++; the rest
# would have to be built here, before us.

# Our C++ libraries are the distribution's, and it has built them for libstdc++.
export CXXFLAGS=${CXXFLAGS//-stdlib=libc++/}

tree=$SRC/farside
build=$WORK/farside
cmake -S "$tree" -B "$build" -G Ninja -DFARSIDE_FUZZ=ON -DFARSIDE_FUZZ_FLAGS=OFF \
  -DFARSIDE_SANITIZE= -DFARSIDE_WERROR=OFF \
  -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON -DCMAKE_BUILD_RPATH="\$ORIGIN/lib"
cmake --build "$build" --target farside_fuzz_targets farside-fuzz

# Shared libraries come along: where fuzzers run there are none but the C library.
copy_libraries() {
  mkdir -p "$OUT/lib"
  ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' |
    xargs -r cp -L -n -t "$OUT/lib"
}

for binary in "$build"/bin/fuzz_*; do
  target=$(basename "$binary")
  name=${target#fuzz_}
  cp "$binary" "$OUT/$target"
  copy_libraries "$binary"
  "$build/bin/farside-fuzz" dictionary "$name" >"$OUT/$target.dict"
  seeds=$WORK/seeds/$name
  rm -rf "$seeds"
  "$build/bin/farside-fuzz" seeds "$name" "$seeds" "$tree"
  rm -f "$OUT/${target}_seed_corpus.zip"
  (cd "$seeds" && python3 -m zipfile -c "$OUT/${target}_seed_corpus.zip" ./*)
  # Windows of guest memory may shrink under the server: SIGBUS is its own to handle.
  cat >"$OUT/$target.options" <<'OPTIONS'
[libfuzzer]
max_len = 65536
handle_bus = 0

[asan]
handle_sigbus = 0
OPTIONS
done
