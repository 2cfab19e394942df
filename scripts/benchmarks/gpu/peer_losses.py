"""SupContrast's loss on PyTorch, timed on the same card; needs no TensorFlow.

python scripts/benchmarks/gpu/peer_losses.py CHECKOUT RESULT.json
"""

import json
import statistics
import sys
import time

import torch

_SIZES = 1024, 2048, 8192, 16384, 32768, 65536
_DIM, _CLASSES = 128, 100


def main(checkout, path):
    """Times value and gradient at each size, if memory suffices."""
    sys.path.insert(0, checkout)
    from losses import SupConLoss

    torch.set_float32_matmul_precision("high")
    loss = SupConLoss(temperature=0.1, base_temperature=0.1)
    rows = []
    for size in _SIZES:
        torch.manual_seed(0)
        labels = torch.randint(0, _CLASSES, (size // 2,), device="cuda")
        embeddings = torch.nn.functional.normalize(
            torch.randn(size // 2, 2, _DIM, device="cuda"), dim=-1
        )
        embeddings.requires_grad_()

        def run(embeddings=embeddings, labels=labels):
            embeddings.grad = None
            value = loss(embeddings, labels)
            value.backward()
            return float(value) + float(embeddings.grad[0, 0, 0])

        try:
            run()
            torch.cuda.reset_peak_memory_stats()
            before, seconds = torch.cuda.memory_allocated(), []
            for _ in range(7):
                started = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - started)
            peak = torch.cuda.max_memory_allocated() - before
            cells = f"{1e3 * statistics.median(seconds):.2f} ms", f"{peak / 2**20:,.0f} MiB"
        except torch.OutOfMemoryError:
            cells = "out of memory", ""
            torch.cuda.empty_cache()
        rows.append(["SupContrast", str(size), *cells])
        print(*rows[-1], flush=True)
    title = f"SupContrast's loss, PyTorch {torch.__version__}, TF32, forward and backward"
    table = {"title": title, "header": ["loss", "rows", "time", "memory"], "rows": rows}
    with open(path, "w") as file:
        json.dump({"tables": [table]}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
