#!/bin/sh
# `make fuzz`: every target for FUZZ_SECONDS (60) under ASan and UBSan, guided by coverage of the compiled parsers and
# engine. With atheris where its wheel installs and clang is there (as root it is fetched), else with our own loop on a
# gcc build. Inputs that lead somewhere stay in out/fuzz/corpus, crashes in out/fuzz; it fails when there is one.
#   FUZZ_TARGETS="ws engine"   only these        FUZZ_ENGINE=loop|atheris   no choice of its own
#   tests/fuzz/run.sh replay TARGET FILE         one input on the gcc build
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
out=$root/out/fuzz
seconds=${FUZZ_SECONDS:-60}
targets=${FUZZ_TARGETS:-http proxy ws vector text engine}
python=${PYTHON:-$root/.venv/bin/python}
mkdir -p "$out"

build_gcc() {
    gcc -O2 -Wall -Wextra -shared -fPIC -o "$out/cover.so" tests/fuzz/cover.c
    CFLAGS="-fsanitize-coverage=trace-pc,trace-cmp" tests/sanitize.sh build "$out/gcc"
}

loop() {
    PRELOAD=$out/cover.so tests/sanitize.sh run "$out/gcc" -m tests.fuzz.loop "$@"
}

have_clang() {
    command -v clang >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
    echo "fuzz: installing clang" >&2
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends clang; } >&2
}

have_atheris() {
    PYTHONPATH=$out/site "$python" -c "import atheris; atheris.Setup" 2>/dev/null ||
        "$python" -m pip --disable-pip-version-check --quiet install --no-deps --only-binary :all: --target "$out/site" atheris
}

# The instrumented modules find the sanitizers' and libFuzzer's runtime in what atheris preloads, so nothing is linked in.
build_clang() {
    tests/sanitize.sh copy "$out/clang"
    (cd "$out/clang" && EDGE_DEBUG=1 CC="clang -fsanitize=address,undefined,fuzzer-no-link -fno-omit-frame-pointer" \
        LDSHARED="clang -shared" "$python" setup.py --quiet build_ext --inplace)
}

in_clang() {
    (cd "$out/clang" && PYTHONPATH=$out/clang:$out/site PYTHONMALLOC=malloc LD_PRELOAD=$out/site/asan_with_fuzzer.so \
        ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:quarantine_size_mb=64 \
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$python" "$@")
}

atheris() {
    in_clang -m tests.fuzz.loop "$1" --seeds "$out/corpus/$1"
    status=0
    in_clang -m "tests.fuzz.fuzz_$1" "$out/corpus/$1" "-artifact_prefix=$out/$1-" "-max_total_time=$seconds" \
        -max_len=2048 -len_control=0 -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 >"$out/$1.log" 2>&1 || status=$?
    # The last line of progress: runs, edges (cov), features (ft), corpus.
    sed -n 's/^#\([0-9]*\).*cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/\1 runs, \2 edges, \3 features, \4 inputs in the corpus/p' \
        "$out/$1.log" | tail -n 1 | sed "s|^|fuzz: $1: |; s|\$|, $(sed -n 's/^stat::average_exec_per_sec: *//p' "$out/$1.log")/s|"
    [ "$status" = 0 ] && return
    grep -m 1 -E 'Uncaught Python exception|runtime error|ERROR: ' "$out/$1.log" || tail -n 5 "$out/$1.log"
    crash=$(sed -n 's/.*Test unit written to //p' "$out/$1.log" | tail -n 1)
    echo "fuzz: $1: FAILED, see out/fuzz/$1.log; again with: tests/fuzz/run.sh replay $1 $crash"
    return 1
}

if [ "${1:-}" = replay ]; then
    file=$(realpath "$3")
    build_gcc
    loop "$2" --replay "$file"
    exit
fi

engine=${FUZZ_ENGINE:-}
if [ -z "$engine" ]; then
    engine=loop
    if have_clang && have_atheris; then engine=atheris; fi
fi
if [ "$engine" = atheris ]; then
    echo "fuzz: atheris (libFuzzer), modules built by $(clang --version | head -n 1), ${seconds} s a target"
    build_clang
else
    echo "fuzz: our own loop, modules built by $(gcc --version | head -n 1), ${seconds} s a target"
    build_gcc
fi
failed=0
for target in $targets; do
    if [ "$engine" = atheris ]; then
        atheris "$target" || failed=1
    else
        loop "$target" --seconds "$seconds" --corpus "$out/corpus/$target" --crashes "$out" || failed=1
    fi
done
exit $failed
