#!/usr/bin/env bash
# Runs what is in this folder on a machine with a GPU; needs no Rust.
#   run                      list what there is
#   run tests [ARGS...]      every test program, those tests included that need a GPU
#   run NAME [ARGS...]       cce-tune, one test program or one benchmark
# CCE_NVRTC_PATH is set to the NVRTC of this machine's PyTorch, unless it is set already.
# CCE_RUN_UNDER="compute-sanitizer --tool memcheck --report-api-errors no" puts a tool in front of every program.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ -z "${CCE_NVRTC_PATH:-}" ] && command -v python3 >/dev/null; then
    packages=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    if [ -e "$packages/nvidia/cu13/lib/libnvrtc.so.13" ]; then
        export CCE_NVRTC_PATH="$packages/nvidia/cu13/lib"
    fi
fi

names() {
    (cd "$here" && ls -d cce-tune tests/* benches/* 2>/dev/null) || true
}

# Words of CCE_RUN_UNDER are a command and its arguments.
start() {
    # shellcheck disable=SC2086
    ${CCE_RUN_UNDER:-} "$@"
}

name=${1:-}
[ $# -eq 0 ] || shift
case $name in
"")
    names
    ;;
tests)
    failed=
    for program in "$here"/tests/*; do
        [ -e "$program" ] || { echo "run: this bundle has no tests" >&2; exit 1; }
        echo "== $(basename "$program")"
        start "$program" --include-ignored "$@" || failed="$failed $(basename "$program")"
    done
    if [ -n "$failed" ]; then
        echo "run: failed:$failed" >&2
        exit 1
    fi
    ;;
cce-tune)
    start "$here/cce-tune" "$@"
    ;;
*)
    if [ -e "$here/tests/$name" ]; then
        start "$here/tests/$name" --include-ignored "$@"
    elif [ -e "$here/benches/$name" ]; then
        start "$here/benches/$name" "$@"
    else
        echo "run: there is no $name here, only:" >&2
        names >&2
        exit 1
    fi
    ;;
esac
