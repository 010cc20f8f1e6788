"""The jobs of section 9 of docs/spec/numerics.md."""

import pathlib
import sys

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "reference"))

from arithmetic import F, fma, lines, philox
from model import tensors
from step import genesis

__all__ = ["NAMES", "SHARDS", "case", "fma", "lines"]
SEED = 0x0123456789ABCDEF
OPTIMIZER = {"name": "adamw", "learningRate": "1e-3", "beta1": "0.9", "beta2": "0.95", "epsilon": "1e-8", "weightDecay": "0.1", "clipNorm": "1.0"}
MODELS = {
    "gpt2": dict(architecture="gpt2", layers=2, width=64, heads=2, context=64, vocabulary=256, tied=True),
    "llama": dict(architecture="llama", layers=2, width=64, heads=4, context=64, vocabulary=256, tied=False, llama=(2, 160)),
    "gpt2-stress": dict(architecture="gpt2", layers=1, width=128, heads=2, context=72, vocabulary=100, tied=True),
    "llama-stress": dict(architecture="llama", layers=1, width=160, heads=2, context=72, vocabulary=100, tied=False, llama=(1, 104)),
    "llama-extra": dict(architecture="llama", layers=1, width=144, heads=6, context=72, vocabulary=100, tied=False, llama=(2, 104)),
}
NAMES = list(MODELS)
SHARDS = {name: (3,) if name == "llama-extra" else (2, 4) for name in NAMES}


def case(name, arithmetic, shards):
    """Spec, stream of tokens, and first weights by name."""
    model = dict(MODELS[name])
    model["tiedEmbeddings"] = "Tied" if model.pop("tied") else "Untied"
    if "llama" in model:
        kv, mlp = model["llama"]
        model["llama"] = {"kvHeads": kv, "mlpWidth": mlp, "ropeBase": 10_000}
    context, vocabulary = model["context"], model["vocabulary"]
    schedule = {"name": "cosine", "warmupSteps": 4, "finalFraction": "0.1"}
    training = dict(steps=20, batch=6 if shards == 3 else 4, shards=shards, seed=SEED, arithmetic=arithmetic, optimizer=OPTIMIZER, schedule=schedule)
    spec = {"model": model, "training": training, "data": {"tokens": 200 * context + 1}}
    i = np.arange(200 * context + 1, dtype=np.int64)
    w = philox((i.astype(np.uint64), 0, 0, 2), (SEED & 0xFFFFFFFF, SEED >> 32))[0].astype(np.int64)
    stream = np.where((w >> 16) % 4 == 0, w % vocabulary, (7 * i) % 61 % vocabulary)
    return spec, stream, stress(spec) if name.endswith(("stress", "extra")) else genesis(spec)


def stress(spec):
    """9.2."""
    rules = tensors(spec)
    weights = genesis(spec, [(name, shape, "normal", 1) for name, shape, _, _ in rules])
    ones = {name for name, _, rule, _ in rules if rule == "ones"}
    return {name: F(1) + F(8) * w if name in ones else F(8) * w for name, w in weights.items()}
