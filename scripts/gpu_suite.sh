#!/bin/bash
# Builds and checks the CUDA backend on a GPU machine, from a bundle made by scripts/pack_gpu.js or from a checkout:
#   bash gpu_suite.sh [log folder]
# Tests, the same under compute-sanitizer (memcheck; racecheck without the slowest), then the benchmark with whole models.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$here
[ -d "$root/native" ] || root=$here/..
logs=${1:-$root/gpu-logs}
mkdir -p "$logs"
export PATH=$PATH:/usr/local/cuda/bin
[ -d "$root/golden" ] && export QUEST_GOLDEN=$root/golden
failed=0

if [ -d "$root/googletest" ]; then
  cmake -S "$root/googletest" -B "$root/build-gtest" -DCMAKE_INSTALL_PREFIX="$root/gtest" -DCMAKE_BUILD_TYPE=Release >"$logs/gtest.log" 2>&1 &&
    cmake --build "$root/build-gtest" --target install -j 8 >>"$logs/gtest.log" 2>&1 || { echo "GoogleTest did not build: $logs/gtest.log"; exit 1; }
fi
cmake -S "$root/native" -B "$root/build-gpu" -DCMAKE_PREFIX_PATH="$root/gtest" -DCMAKE_BUILD_TYPE=Release -DQUEST_TESTS=ON -DQUEST_BENCH=ON \
  -DQUEST_CUDA_ARCHITECTURES="${QUEST_CUDA_ARCHITECTURES:-native}" >"$logs/build.log" 2>&1 &&
  cmake --build "$root/build-gpu" -j 8 --target quest_cuda_tests quest_cuda_bench >>"$logs/build.log" 2>&1 || { echo "the build failed: $logs/build.log"; exit 1; }

step() {
  name=$1
  shift
  "$@" >"$logs/$name.log" 2>&1
  code=$?
  echo "$name: $([ $code = 0 ] && echo ok || echo "failed with status $code"), $logs/$name.log"
  [ $code = 0 ] || failed=1
}
tests=$root/build-gpu/quest_cuda_tests
step tests "$tests"
if command -v compute-sanitizer >/dev/null; then
  step memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$tests"
  step racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$tests" --gtest_filter='-Golden*:Executor*:TopK*:Gemv.Wide*:Gemm*'
else
  echo "compute-sanitizer is not on this machine: memory and race checks are skipped"
fi
step bench "$root/build-gpu/quest_cuda_bench" attention gemv gemm prefill e2e
cat "$logs/bench.log"
exit $failed
