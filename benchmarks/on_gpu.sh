#!/usr/bin/env bash
# What docs/results.md and benchmarks/results take from a GPU, one after the other.
#
#   benchmarks/on_gpu.sh OUT STEP...     steps: tests sanitizer kernels step pruning command processes repair7b devices
#                                               runtime runtime_kernels methods repairs ablations seeing pretrained
#   MODELS="embedded-llava" JOBS=14 benchmarks/on_gpu.sh runs/gpu methods repairs
#   TEXT=book.txt JOBS=3 benchmarks/on_gpu.sh runs/gpu pretrained          a plain text for the perplexity; CELLS: another
#                                                                         file of benchmarks/cells
#
# `methods`, `repairs` and `ablations` run JOBS cells at a time; with CUDA's multi-process service
# (nvidia-cuda-mps-control -d), their small kernels share the GPU instead of taking turns. The others measure time: give
# them the GPU alone.
set -euo pipefail
OUT=${1:?name the folder for the results}
shift
PYTHON=${PYTHON:-python3}
MODELS=${MODELS:-embedded embedded-llava}
JOBS=${JOBS:-14}
REPAIRS=none,reconstruct,lora,lora_remask,masked_finetune,task,kd,both,warm_start
cd "$(dirname "$0")/.."
mkdir -p "$OUT"

compare() { # NAME then compare.py's own options
  local name=$1
  shift
  for model in $MODELS; do
    $PYTHON benchmarks/compare.py "$model" -o "$OUT/compare" --name "$name-$model" --jobs "$JOBS" \
      --evaluation-batch 256 "$@"
  done
}

for step in "$@"; do
  case $step in
    tests) $PYTHON -m pytest -q tests/kernels/test_triton_kernels.py tests/kernels/test_column_sweep.py tests/kernels/test_token_losses.py tests/repairing/test_cuda.py tests/repairing/test_processes.py \
             tests/calibration/test_walk_on_cuda.py tests/test_streamed_pruning_on_cuda.py tests/methods/test_cuda_agrees.py \
             tests/runtime/kernels/test_on_cuda.py ;;
    sanitizer) # accesses out of bounds and races, in small cases of every kernel that computes with packed weights
      for tool in memcheck racecheck; do
        if [ $tool = racecheck ]; then export EVERY_LANE_SIGNALS=1; fi
        compute-sanitizer --tool $tool --print-limit 50 --target-processes all --error-exitcode 9 $PYTHON -m pytest -q -x -p no:cacheprovider \
          tests/runtime/kernels/test_on_cuda.py -k "${SANITIZED:-results_are or siblings or tail or one_byte}"
      done ;;
    kernels) $PYTHON benchmarks/sparse_lora.py --rounds 60 --below-floor --output "$OUT/sparse_lora.json" ;;
    step) $PYTHON benchmarks/repair_step.py --steps 10 --output "$OUT/repair_step.json" ;;
    pruning) $PYTHON benchmarks/prune_speed.py --output "$OUT/prune_speed.json" --figure "$OUT/prune_speed.png" ;;
    command) $PYTHON benchmarks/prune_command.py --work "${WORK:-$OUT}" --output "$OUT/prune_command.json" ;;
    processes) $PYTHON benchmarks/prune_processes.py --output "$OUT/prune_processes.json" ;;
    repair7b) $PYTHON benchmarks/repair_7b.py --output "$OUT/repair_7b.json" ;;
    devices) $PYTHON benchmarks/devices.py --output "$OUT/devices.json" ;;
    runtime) $PYTHON benchmarks/runtime.py --output "$OUT/runtime.json" ;;
    runtime_kernels) $PYTHON benchmarks/runtime_kernels.py --output "$OUT/runtime_kernels.json" ;;
    seeing) $PYTHON benchmarks/seeing.py $MODELS -o "$OUT/seeing" --repair default --looks 60 --images 100 ;;
    methods) compare methods ;;
    pretrained)
      WORK=${WORK:-$OUT}
      [ -d "$WORK/pretrained" ] ||
        $PYTHON scripts/make_pretrained.py --output "$WORK/pretrained" --work "$WORK/pretrained-work"
      $PYTHON benchmarks/compare.py "$WORK/pretrained" -o "$OUT/compare" --cells "${CELLS:-benchmarks/cells/pretrained.txt}" \
        --seeds "${SEEDS:-0}" --tasks vqa,okvqa,gqa,caption --limit 150 --jobs "$JOBS" --samples 24000 --batch-size 32 ${TEXT:+--text "$TEXT"} \
        ${STOP_AFTER:+--stop-after "$STOP_AFTER"} ;;
    repairs) compare repairs --batch-size 64 --methods wanda,sparsegpt --repairs "$REPAIRS" --rates 1e-4,3e-4,1e-3,3e-3 ;;
    ablations)
      compare ablations --batch-size 64 --methods wanda --patterns 2:4,0.7 --repairs "none,both,\
both rank_vision=2 rank_language=4,both rank_vision=4 rank_language=8,both rank_vision=16 rank_language=32,\
both rank_language=0,both rank_vision=0,both rank_connector=0,\
both kd_weight=0.5,both kd_weight=0.9,both temperature=2,both hidden_weight=1,\
both samples=3200,both samples=25600" ;;
    *) echo "there is no step '$step': the first lines of $0 name them" >&2; exit 2 ;;
  esac
done
