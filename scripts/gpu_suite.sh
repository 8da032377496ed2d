#!/bin/bash
# Builds and checks quest on a GPU machine, from a bundle made by scripts/pack_gpu.js or from a checkout:
#   bash gpu_suite.sh [--logs FOLDER] [tests] [sanitizer] [cli] [bench]     all parts when none is named
# tests: the native CUDA tests; sanitizer: every kernel on small shapes under memcheck and racecheck; cli: the commands
# through Node, CPU against GPU, and greedy output twenty times; bench: the numbers of results/h100 (ten minutes).
set -u
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$PATH:/usr/local/cuda/bin
logs=$PWD/gpu-logs
if [ "${1:-}" = --logs ]; then
  logs=$2
  shift 2
fi
parts=${*:-tests sanitizer cli bench}
mkdir -p "$logs"
failed=0

unxz_to() { # FILE.xz OUTPUT
  if command -v xz >/dev/null; then xz -dc "$1" >"$2"; else python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' "$1" "$2"; fi
}

if [ -e "$here/quest.tar.xz" ]; then
  root=$here/quest
  if ! [ -d "$root/native" ]; then
    unxz_to "$here/quest.tar.xz" "$here/quest.tar" && tar -C "$here" -xf "$here/quest.tar" && rm "$here/quest.tar" || exit 1
    mkdir -p "$root/node" && unxz_to "$here/node.xz" "$root/node/node" && chmod +x "$root/node/node" || exit 1
  fi
  export PATH=$root/node:$PATH
else
  root=$here/..
fi
[ -d "$root/golden" ] && export QUEST_GOLDEN=$root/golden

# Runs a command into its own log and says how it ended, and how long it took.
step() {
  local name=$1 code begin=$SECONDS
  shift
  "$@" >"$logs/$name.log" 2>&1
  code=$?
  echo "$name: $([ $code = 0 ] && echo ok || echo "FAILED with status $code") in $((SECONDS - begin)) s, $logs/$name.log"
  [ $code = 0 ] || { failed=1; tail -n 25 "$logs/$name.log"; }
  return $code
}

# How many tests of a step ran, and why others did not. Tests that found no GPU have checked nothing: the suite fails.
count() {
  local log=$logs/$1.log total skipped
  total=$(sed -n 's/^\[==========\] \([0-9]*\) tests\{0,1\} from .* ran\..*/\1/p' "$log")
  skipped=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*listed below.*/\1/p' "$log")
  [ -n "$total" ] || { echo "$1: the tests did not come to their end" && failed=1 && return; }
  echo "$1: $((total - ${skipped:-0})) tests ran, ${skipped:-0} skipped"
  # GoogleTest has the reason in the line after "FILE:LINE: Skipped".
  sed -n '/: Skipped$/{n;p}' "$log" | sort | uniq -c | while read -r n reason; do echo "$1:   $n skipped: $reason"; done
  if [ "$total" = "${skipped:-0}" ] || sed -n '/: Skipped$/{n;p}' "$log" | grep -qx 'no GPU'; then
    failed=1
    echo "$1: FAILED, nothing was tested on a GPU: see nvidia-smi and $log"
  fi
}

build() {
  local jobs
  jobs=$(nproc)
  if [ -d "$root/googletest" ] && ! [ -d "$root/gtest" ]; then
    cmake -S "$root/googletest" -B "$root/build-gtest" -DCMAKE_INSTALL_PREFIX="$root/gtest" -DCMAKE_BUILD_TYPE=Release -DBUILD_GMOCK=OFF &&
      cmake --build "$root/build-gtest" --target install -j "$jobs" || return 1
  fi
  cmake -S "$root/native" -B "$root/build-gpu" -DCMAKE_PREFIX_PATH="$root/gtest" -DCMAKE_BUILD_TYPE=Release -DQUEST_CUDA=ON -DQUEST_TESTS=ON \
    -DCMAKE_JS_INC="$root/node_modules/node-api-headers/include" \
    ${QUEST_CUDA_ARCHITECTURES:+-DQUEST_CUDA_ARCHITECTURES="$QUEST_CUDA_ARCHITECTURES"} &&
    cmake --build "$root/build-gpu" -j "$jobs" --target $targets
}

# The measured tables and figures of results/h100, in $logs/h100.
results() {
  local bench="node $root/bin/quest.js bench" budgets=512,1024,2048,4096
  $bench kernels --device cuda --budget $budgets --seconds 0.15 --out "$logs/h100" &&
    $bench e2e --device cuda --shape llama2-7b --context 8192,16384,32768,65536 --budget $budgets,full --out "$logs/h100/e2e-llama2-7b" &&
    $bench e2e --device cuda --shape llama2-7b --weights int4 --context 8192,16384,32768,65536 --budget $budgets,full --out "$logs/h100/e2e-llama2-7b-int4" &&
    $bench e2e --device cuda --shape llama3.1-8b --context 8192,16384,32768,65536,131072 --budget $budgets,full --out "$logs/h100/e2e-llama3.1-8b" &&
    $bench compare --device cuda --context 32768 --budget 2048 --out "$logs/h100/compare"
}

case " $parts " in
*" tests "* | *" sanitizer "*) targets="quest_cuda_tests quest" ;;
*) targets=quest ;;
esac
step build build || exit 1
tests=$root/build-gpu/quest_cuda_tests
export QUEST_ADDON=$root/build-gpu/quest.node
for part in $parts; do
  case $part in
  tests)
    step tests "$tests"
    count tests
    ;;
  sanitizer)
    if command -v compute-sanitizer >/dev/null; then
      # The executor launches no kernel that has no test of its own: one generation of every method shows its buffers' sizes.
      export QUEST_SMALL_SHAPES=1
      step memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$tests" \
        --gtest_filter='-Golden*:Executor*:Switches*:Generation.Ahead*:Generation.Stops*:Generation.Cancelled*'
      count memcheck
      step racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$tests" --gtest_filter='-Golden*:Executor*:Switches*:Generation*:Families*:MemoryPlan*'
      count racecheck
      unset QUEST_SMALL_SHAPES
    else
      echo "compute-sanitizer is not on this machine: memory and race checks are skipped"
    fi
    ;;
  cli | bench)
    if command -v node >/dev/null; then
      [ $part = cli ] && step cli node "$root/scripts/gpu_check.js"
      [ $part = bench ] && step bench results
      cat "$logs/$part.log"
    else
      echo "node is not on this machine: part $part is skipped"
    fi
    ;;
  *) echo "gpu_suite: there is no part $part" && exit 2 ;;
  esac
done
exit $failed
