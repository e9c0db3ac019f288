"""PyTorch's side of `cargo xtask bench ddp`: MobileNetV2 under DistributedDataParallel on two Gloo ranks, one thread each.

Trains whole epochs over random images that lie in memory as bytes, as Graft's decode cache does, and prints one line of
JSON: {"images_per_second": median over the epochs after the first}.
"""
import argparse
import json
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchvision


def worker(rank, world, store, args, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(num_classes=2)
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randint(0, 256, (args.images, 3, args.size, args.size), dtype=torch.uint8)
    labels = torch.randint(0, 2, (args.images,))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    share = args.batch // world
    speeds = []
    for _ in range(args.epochs):
        order = torch.randperm(args.images)
        dist.barrier()
        began, seen = time.perf_counter(), 0
        for start in range(0, args.images - args.batch + 1, args.batch):
            mine = order[start + rank * share : start + (rank + 1) * share]
            inputs = (images[mine].float() / 255 - mean) / std
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(ddp(inputs), labels[mine]).backward()
            optimizer.step()
            seen += args.batch
        dist.barrier()
        speeds.append(seen / (time.perf_counter() - began))
    if rank == 0:
        results.put(statistics.median(speeds[1:]))
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    for name, default in [("batch", 32), ("epochs", 3), ("images", 425), ("size", 128)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("spawn")
        results = context.Queue()
        ranks = [context.Process(target=worker, args=(r, 2, os.path.join(folder, "store"), args, results)) for r in range(2)]
        for process in ranks:
            process.start()
        print(json.dumps({"images_per_second": results.get()}))
        for process in ranks:
            process.join()


if __name__ == "__main__":
    main()
