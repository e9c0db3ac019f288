"""PyTorch's side of `cargo xtask bench engine`: the usual loop of torchvision's references, on images that lie in memory as bytes,
as Graft's decode cache has them.

`engine.py weights ARCHITECTURE,… CLASSES FOLDER` writes fresh weights for both sides. `engine.py train …` trains whole epochs on one
process or under DistributedDataParallel, `engine.py features …` runs the backbone over all images. Both print `first step` when the
first optimizer step is done, and last one line of JSON: {"images_per_second": median of the epochs after the first, "peak_bytes":
the largest resident memory of all ranks together}.

On a GPU the loop is what PyTorch's performance guide asks for: channels last, autocast, cuDNN's search for the fastest kernels, the fused
optimizer, pinned memory, copies that do not block, and no step that waits for its loss.
"""
import argparse
import json
import os
import resource
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F

import reference


def network(args):
    model = reference.build(args.architecture, args.classes)
    model.load_state_dict(torch.load(os.path.join(args.folder, f"{args.architecture}.pth")))
    if args.device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
        model = model.to("cuda", memory_format=torch.channels_last)
    return model


def on_device(args, tensor):
    return tensor.pin_memory().to("cuda", non_blocking=True) if args.device == "cuda" else tensor


def pixels(args):
    images = torch.randint(0, 256, (args.images, 3, args.size, args.size), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406], device=args.device).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=args.device).view(1, 3, 1, 1)

    def inputs(chosen):
        batch = (on_device(args, images[chosen]).float() / 255 - mean) / std
        return batch.contiguous(memory_format=torch.channels_last) if args.device == "cuda" else batch

    return images, inputs


def train(rank, args, store, results):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = network(args).train()
    trained = [p for name, p in model.named_parameters() if args.unfreeze == "*" or name.startswith((args.unfreeze + ".", "fc.", "classifier."))]
    model.requires_grad_(False)
    for p in trained:
        p.requires_grad_(True)
    step = model
    if args.world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=args.world)
        step = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9, fused=args.device == "cuda")
    images, inputs = pixels(args)
    labels = torch.randint(0, args.classes, (args.images,))
    speeds = []
    for epoch in range(args.epochs):
        order = torch.randperm(args.images)
        began, seen = time.perf_counter(), 0
        for start in range(0, args.images, args.batch):
            batch = order[start:start + args.batch]
            mine = batch.tensor_split(args.world)[rank]
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
                loss = F.cross_entropy(step(inputs(mine)), on_device(args, labels[mine]))
            loss.backward()
            optimizer.step()
            if args.device == "cpu" or epoch == start == 0:
                loss.item()
            seen += len(batch)
            if rank == 0 and epoch == start == 0:
                print("first step", flush=True)
        if args.world > 1:
            dist.barrier()
        loss.item()
        speeds.append(seen / (time.perf_counter() - began))
    results.put((rank, statistics.median(speeds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    if args.world > 1:
        dist.destroy_process_group()


def features(args):
    torch.set_num_threads(args.threads)
    model = network(args).eval()
    _, inputs = pixels(args)
    speeds = []
    with torch.inference_mode():
        # The first pass warms up, as Graft's fine-tuning before its features does.
        for _ in range(2):
            began = time.perf_counter()
            batch = 256 if args.device == "cuda" else 32
            rows = [reference.features(args.architecture, model, inputs(slice(i, i + batch))) for i in range(0, args.images, batch)]
            torch.cat(rows).cpu()
            speeds.append(args.images / (time.perf_counter() - began))
    return speeds[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Alone(list):
    """What a single process puts its result into."""

    put = list.append


def together(args):
    if args.world == 1:
        results = Alone()
        train(0, args, None, results)
        return results
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("spawn")
        queue = context.Queue()
        ranks = [context.Process(target=train, args=(r, args, os.path.join(folder, "store"), queue)) for r in range(args.world)]
        for process in ranks:
            process.start()
        results = [queue.get() for _ in ranks]
        for process in ranks:
            process.join()
        return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["weights", "train", "features"])
    parser.add_argument("architecture")
    parser.add_argument("classes", type=int)
    parser.add_argument("folder")
    for name, default in [("world", 1), ("threads", 1), ("batch", 16), ("epochs", 3), ("images", 144), ("size", 128)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--unfreeze", default="*")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    if args.task == "weights":
        for architecture in args.architecture.split(","):
            torch.manual_seed(0)
            torch.save(reference.build(architecture, args.classes).state_dict(), os.path.join(args.folder, f"{architecture}.pth"))
        return
    if args.task == "features":
        speed, peak = features(args)
    else:
        results = together(args)
        speed, peak = min(speed for _, speed, _ in results), sum(peak for _, _, peak in results)
    print(json.dumps({"images_per_second": speed, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
