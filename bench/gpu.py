"""Training on one GPU beside PyTorch: `make bench-gpu`. Products and whole steps of both arithmetics, interleaved with PyTorch's in
fp32, TF32 and bf16 on the same GPU in one process; medians of rounds. Writes bench/results/gpu.json and the samples beside it, or
below the directory in its argument. With `--profile` it only says which kernels a step spends its time in."""

import functools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import cupy
import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / part) for part in ("tests/cuda", "tests/reference", "bench")]

from device import Device, build
from job import Run
from step import tensors
from torch_steps import Model

# Dense bf16 of an H100 SXM and an H200 (NVIDIA, datasheets): what MFU is counted against.
PEAK = 989e12
ROUNDS, PRODUCT_ROUNDS = 5, 5
# M, N, K of a GPT-2 124M with 8192 rows, and a square.
PRODUCTS = {"square": (8192, 8192, 8192), "qkv": (8192, 2304, 768), "fc": (8192, 3072, 768), "proj": (8192, 768, 3072), "dW": (3072, 768, 8192)}
SHAPES = {
    "gpt2-124m, context 1024, batch 8": dict(
        architecture="gpt2", layers=12, width=768, heads=12, context=1024, vocabulary=50257, batch=8, kvHeads=12
    ),
    "llama-0.6b, context 2048, batch 1": dict(
        architecture="llama", layers=11, width=2048, heads=32, context=2048, vocabulary=32000, batch=1, kvHeads=4, mlpWidth=5632
    ),
}


def seconds(run):
    """Device time of one call."""
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) / 1e3


def interleaved(sides, rounds, warm=1):
    samples = {name: [] for name in sides}
    for i in range(warm + rounds):
        for name, run in sides.items():
            took = seconds(run)
            if i >= warm:
                samples[name].append(took)
    return samples


def products(device):
    for name, (m, n, k) in PRODUCTS.items():
        x, y = torch.randn(m, k, device="cuda"), torch.randn(n, k, device="cuda")
        xb, yb = x.bfloat16(), y.bfloat16()
        a, b, c = cupy.asarray(x), cupy.asarray(y), cupy.empty((m, n), cupy.float32)
        at, bt = cupy.ascontiguousarray(a.T), cupy.ascontiguousarray(b.T)
        la, lb = device.row_lines(a, m, k, k), device.row_lines(b, n, k, k)
        out, out_b = torch.empty(m, n, device="cuda"), torch.empty(m, n, device="cuda", dtype=torch.bfloat16)

        def fp32(tf32):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            torch.matmul(x, y.t(), out=out)

        sides = {
            "f32-chain nt": lambda: device.chain("nt", m, n, k, a, k, b, k, c, n),
            "f32-chain nn": lambda: device.chain("nn", m, n, k, a, k, bt, n, c, n),
            "f32-chain tn": lambda: device.chain("tn", m, n, k, at, m, bt, n, c, n),
            "torch fp32": lambda: fp32(False),
            "i16-exact, product": lambda: device.exact(la, lb, c, n),
            "i16-exact, mma.sync": lambda: device.exact(la, lb, c, n, unit="mma"),
            "i16-exact, with both operands": lambda: device.exact(device.row_lines(a, m, k, k), device.row_lines(b, n, k, k), c, n),
            "torch TF32": lambda: fp32(True),
            "torch bf16": lambda: torch.matmul(xb, yb.t(), out=out_b),
        }
        yield f"{name} {m}x{n}x{k}", 2 * m * n * k / 1e12, interleaved(sides, PRODUCT_ROUNDS)


class Ours(Run):
    """Weights as large as they are in training; the order of data is counted here, not drawn."""

    def __init__(self, device, shape):
        llama = shape["architecture"] == "llama"
        model = {key: shape[key] for key in ("architecture", "layers", "width", "heads", "context", "vocabulary")}
        model["tiedEmbeddings"] = "Tied"
        if llama:
            model["llama"] = {"kvHeads": shape["kvHeads"], "mlpWidth": shape["mlpWidth"], "ropeBase": 10_000}
        optimizer = dict(
            name="adamw", learningRate="6e-4", beta1="0.9", beta2="0.95", epsilon="1e-8", weightDecay="0.1", clipNorm="1.0"
        )
        training = dict(
            steps=1000, batch=shape["batch"], shards=1, seed=0, optimizer=optimizer,
            schedule={"name": "cosine", "warmupSteps": 10, "finalFraction": "0.1"},
        )
        spec = {"model": model, "training": training}
        weights = {
            name: cupy.random.standard_normal(tensor, cupy.float32) * np.float32(0.02)
            if rule == "normal" else cupy.full(tensor, float(rule == "ones"), cupy.float32)
            for name, tensor, rule, _ in tensors(spec)
        }
        self.samples = 256
        stream = np.random.default_rng(0).integers(0, shape["vocabulary"], self.samples * shape["context"] + 1)
        super().__init__(device, spec, stream, weights)

    def sample(self, number):
        return number % self.samples

    def step_in(self, arithmetic):
        self.spec["training"]["arithmetic"] = arithmetic
        self.step()


def theirs(shape):
    """Steps of PyTorch by precision."""
    torch.manual_seed(0)
    model = Model(shape).cuda()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens, targets = torch.randint(0, shape["vocabulary"], (2, shape["batch"], shape["context"]), device="cuda")

    def step(tf32, bf16):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            loss = model(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    sides = {"torch fp32": lambda: step(False, False), "torch TF32": lambda: step(True, False), "torch bf16": lambda: step(False, True)}
    return sides, sum(p.numel() for p in parameters)


def steps(device):
    for name, shape in SHAPES.items():
        sides, parameters = theirs(shape)
        run = Ours(device, shape)
        ours = {arithmetic: functools.partial(run.step_in, arithmetic) for arithmetic in ("f32-chain", "i16-exact")}
        samples = interleaved({**ours, **sides}, ROUNDS)
        per_token = 6 * parameters + 12 * shape["layers"] * shape["width"] * shape["context"]
        del run, ours, sides
        cupy.get_default_memory_pool().free_all_blocks()
        torch.cuda.empty_cache()
        yield name, shape["batch"] * shape["context"], per_token, samples


def profile(device):
    """Seconds of a step by kernel, each launch awaited."""
    for name, shape in SHAPES.items():
        for arithmetic in ("f32-chain", "i16-exact"):
            run, spent, launch = Ours(device, shape), {}, Device.launch
            run.step_in(arithmetic)

            def timed(self, kernel, *arguments, **more):
                took = seconds(lambda: launch(self, kernel, *arguments, **more))
                one = spent.setdefault(kernel, [0, 0.0])
                one[0] += 1
                one[1] += took

            Device.launch = timed
            run.step_in(arithmetic)
            Device.launch = launch
            total = sum(took for _, took in spent.values())
            print(f"{name}, {arithmetic}: {1e3 * total:.1f} ms in kernels")
            for kernel, (count, took) in sorted(spent.items(), key=lambda item: -item[1][1])[:14]:
                print(f"  {kernel:24} {count:5} x {1e3 * took:8.2f} ms {100 * took / total:5.1f} %")
            del run
            cupy.get_default_memory_pool().free_all_blocks()


def row(name, value, unit, peer=None, ratio=None):
    return {"name": name, "value": round(value, 4), "unit": unit, "peer": peer, "ratio": ratio and round(ratio, 3), "target": None, "holds": None}


def main():
    directory = pathlib.Path(next((a for a in sys.argv[1:] if not a.startswith("--")), ROOT / "bench/results"))
    with tempfile.TemporaryDirectory() as build_directory:
        device = Device(build(build_directory))
        if "--profile" in sys.argv:
            return profile(device)
        rows, raw = [], {}
        for name, tera, samples in products(device):
            raw[name] = samples
            rates = {side: tera / statistics.median(took) for side, took in samples.items()}
            for side, rate in rates.items():
                if side.startswith("torch"):
                    rows.append(row(f"{name}: {side}", rate, "TFLOP/s"))
                else:
                    rows.append(row(f"{name}: {side}", rate, "TFLOP/s", "torch fp32", rate / rates["torch fp32"]))
                print(f"{rows[-1]['name']:60} {rate:8.1f} TFLOP/s  {rows[-1]['ratio'] or ''}", flush=True)
        for name, tokens, per_token, samples in steps(device):
            raw[name] = samples
            typical = {side: statistics.median(took) for side, took in samples.items()}
            for side, took in typical.items():
                peer = None if side.startswith("torch") else "torch fp32"
                rows.append(row(f"{name}: {side}", tokens / took, "tokens/s", peer, peer and typical[peer] / took))
                rows.append(row(f"{name}: {side}, model FLOPs of {PEAK / 1e12:.0f} TFLOP/s", 100 * per_token * tokens / took / PEAK, "%"))
                print(f"{rows[-2]['name']:60} {tokens / took:10.0f} tokens/s, {1e3 * took:8.1f} ms, MFU {rows[-1]['value']:.2f} %", flush=True)
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
    machine = {"gpu": properties["name"].decode(), "driver": driver, "torch": torch.__version__, "measured": time.strftime("%Y-%m-%d", time.gmtime())}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "gpu.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (directory / "gpu.samples.json").write_text(json.dumps(raw) + "\n")


if __name__ == "__main__":
    main()
