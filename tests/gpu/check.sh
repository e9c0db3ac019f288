#!/bin/sh
# Checks what needs a GPU and measures it beside PyTorch, on a machine with one NVIDIA GPU and a python3 with torch and torchvision
# 2.11. `cargo xtask gpu FOLDER` puts this script beside the programs that it runs. Usage: sh check.sh [tests|jobs|bench]...
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
LD_LIBRARY_PATH=$site/torch/lib$(for lib in "$site"/nvidia/*/lib; do printf ':%s' "$lib"; done)
GRAFT_BENCH_PYTHON=$(command -v python3)
GRAFT_BENCH_SCRIPTS=$here
export LD_LIBRARY_PATH GRAFT_BENCH_PYTHON GRAFT_BENCH_SCRIPTS
failed=0

# check SECONDS COMMAND...: say how it ended and after how long.
check() {
    began=$(date +%s)
    timeout "$@"
    code=$?
    shift
    echo "-- exit $code after $(($(date +%s) - began)) s: $*"
    [ $code -eq 0 ] || failed=$((failed + 1))
}

# job NAME ARCHITECTURE PRECISION OPTIMIZER SIDE MORE: fine-tune all layers on the GPU, then verify what was written on the CPU.
job() {
    cat >"$work/$1.json" <<JSON
{"apiVersion": "graft.dev/v1alpha1", "kind": "TransferJob", "metadata": {"name": "$1"}, "spec": {
 "task": {"classes": ["normal", "lesion"], "positiveClass": "lesion"},
 "backbone": {"architecture": "$2", "weights": {"uri": "file://$work/$2.pth"}, "preprocessing": {"size": $5, "fit": "stretch"}},
 "data": {"train": {"uri": "file://$work/data/phantom", "manifest": "manifest.csv"}, "columns": {"patient": "patient", "split": "split"}},
 "fineTune": {"unfreeze": ["*"], "epochs": 4, "globalBatchSize": 16, "precision": "$3", "optimizer": {"name": "$4", "learningRate": "1e-3"}$6},
 "head": {"epochs": 5}, "workers": {"gpus": 1}, "output": {"uri": "file://$work/$1"}}}
JSON
    check 120 "$here/graft" run "$work/$1.json" >"$work/$1.log" 2>&1
    tail -n 1 "$work/$1.log"
    grep -e '"event":"epoch".*fineTune' -e recorded -e GiB -e 'frozen tensors changed' -e '"failure":{' "$work/$1.log" | cut -c 1-400
    check 60 "$here/graft-trainer" verify "$work/$1"
}

tests() {
    check 60 "$here/graft-trainer" check
    check 120 "$here/gpu-tests" --test-threads=1
}

jobs() {
    "$here/graft" generate --patients 60 "$work/data" >/dev/null
    python3 "$here/engine.py" weights resnet18,mobilenet_v2,vit_b_16,densenet121 2 "$work"
    job first resnet18 fp32 sgd 128 ', "deterministic": true'
    job again resnet18 fp32 sgd 128 ', "deterministic": true'
    check 10 cmp "$work/first/model.safetensors" "$work/again/model.safetensors"
    job augmented resnet18 bf16 adamw 128 ', "clip": {"norm": "1"}, "augment": {"rotate": "10", "noise": "0.1", "blur": "1"}'
    job half mobilenet_v2 fp16 adam 128 ''
    job lamb vit_b_16 bf16 lamb 224 ''
    job dense densenet121 tf32 sgd 128 ', "mix": {"mixup": "0.2"}'
    # Half a hundredth of the GPU's memory: the batch has to be taken in parts.
    export PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:0.005
    job tight resnet18 bf16 sgd 384 ', "augment": {"crop": "0.8"}'
    unset PYTORCH_CUDA_ALLOC_CONF
}

bench() {
    check 900 "$here/bench" gpu
}

nvidia-smi -L
for part in ${*:-tests jobs bench}; do
    $part
done
echo "$failed checks failed"
[ $failed -eq 0 ]
