#!/bin/sh
# `make test-sanitize`: the fast suite on a build that watches every access, out of tree, so that the modules beside
# the sources stay what they are. gcc alone is needed. The first report of a sanitizer aborts, and so fails.
#   tests/sanitize.sh [PYTEST-ARGUMENT...]     build into out/sanitize and test there, by default the fast suite
#   tests/sanitize.sh copy FOLDER              the sources alone, as they stand, with what is compiled there left alone
#   tests/sanitize.sh build FOLDER             the sources, compiled; CFLAGS adds to the switches
#   tests/sanitize.sh run FOLDER ARGUMENT...   python in that build, with the sanitizers loaded; PRELOAD adds a library
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
fast="tests/_fast tests/fuzz tests/worker"

copy() {
    mkdir -p "$1"
    changed=
    for file in "$root"/edge/_fast/*.p*; do
        cmp -s "$file" "$1/edge/_fast/${file##*/}" || changed="$changed edge/_fast/${file##*/}"
    done
    # What is no longer in the tree goes; what was compiled stays, so that the next build is a short one.
    (cd "$1" && find . -path ./build -prune -o -type f ! -name '*.so' ! -path './edge/_fast/*.c' -exec rm -f {} +)
    (cd "$root" && tar -c --exclude='*.so' --exclude='edge/_fast/*.c' --exclude=__pycache__ --exclude=node_modules \
        edge broker tests setup.py pyproject.toml README.md LICENSE) | tar -x -C "$1"
    for file in "$1"/edge/_fast/*.so "$1"/edge/_fast/*.c; do
        name=${file##*/}
        [ -e "$root/edge/_fast/${name%%.*}.pyx" ] || rm -f "$file"
    done
    # shellcheck disable=SC2086
    [ -z "$changed" ] || (cd "$1" && touch $changed) # an older file than what was compiled may yet be another one
}

build() {
    copy "$1"
    (cd "$1" && EDGE_SANITIZE=address,undefined "$python" setup.py --quiet build_ext --inplace)
}

run() {
    cd "$1"
    shift
    # PYTHONMALLOC: each bytes object is a block of its own, so that a read past its end is seen.
    export PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$PWD"
    options=abort_on_error=1:halt_on_error=1${REPORT:+:log_path=$REPORT}
    export ASAN_OPTIONS="$options:detect_leaks=${LEAKS:-0}:detect_stack_use_after_return=1:strict_string_checks=1:quarantine_size_mb=64${PRELOAD:+:verify_asan_link_order=0}"
    export UBSAN_OPTIONS="$options:print_stacktrace=1"
    LD_PRELOAD="${PRELOAD:+$PRELOAD }$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" "$python" "$@"
}

# Reports go to files: a test runner hides what is said on stderr, and a server's end in a test may look like another.
suite() {
    reports=$root/out/sanitize/reports
    rm -rf "$reports"
    mkdir -p "$reports"
    status=0
    # Leaks are looked for at the end where the kernel lets a process be stopped for it (not in every container); what
    # cryptography, and the types that it makes, keep for ever is theirs.
    printf 'leak:_rust.abi3\nleak:_cffi_backend\nleak:gc_alloc\n' >"$root/out/sanitize/theirs"
    export LSAN_OPTIONS="suppressions=$root/out/sanitize/theirs:print_suppressions=0"
    (LEAKS=1 run "$root/out/sanitize" -c pass) 2>/dev/null && export LEAKS=1
    (REPORT=$reports/report run "$root/out/sanitize" -m pytest -q -p no:cacheprovider "$@") || status=$?
    for report in "$reports"/*; do
        [ -e "$report" ] || continue
        cat "$report"
        status=1
    done
    return $status
}

case ${1:-} in
copy | build | run) "$@" ;;
*)
    build "$root/out/sanitize"
    # shellcheck disable=SC2086
    [ $# -gt 0 ] || set -- $fast
    suite "$@"
    ;;
esac
