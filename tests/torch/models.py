"""Models on their way out and in: what we export, transformers loads and computes alike; what transformers saves, we read or refuse by
name. With MUSTER, a job that begins with such a model, and its TensorBoard files as TensorBoard reads them. Exits 1 if anything is off."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import job

LOGIT_LIMIT = 1e-4
TORCH = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# Trained by us, then exported. Llama with fewer heads of keys and values than of queries, and with one.
SMALL = dict(layers=2, context=48, vocabulary=300, batch=4, shards=2, steps=8)
OURS = {
    "gpt2-tied": dict(**SMALL, width=96, heads=3, tied=True),
    "gpt2-untied": dict(**SMALL, width=64, heads=4, tied=False),
    "llama-untied": dict(**SMALL, width=96, heads=6, tied=False, llama={"kvHeads": 2, "mlpWidth": 200, "ropeBase": 10_000}),
    "llama-tied": dict(**SMALL, width=64, heads=4, tied=True, llama={"kvHeads": 1, "mlpWidth": 176, "ropeBase": 500_000}),
}

# Made and saved by transformers.
GPT2 = dict(n_layer=2, n_embd=96, n_head=3, n_positions=48, vocab_size=300, bos_token_id=None, eos_token_id=None)
LLAMA = dict(
    num_hidden_layers=2, hidden_size=96, num_attention_heads=6, num_key_value_heads=2, intermediate_size=200,
    max_position_embeddings=4096, vocab_size=300, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=None,
)
THEIRS = {
    "gpt2-tied": GPT2Config(**GPT2),
    "gpt2-untied": GPT2Config(**GPT2, tie_word_embeddings=False),
    "llama-untied": LlamaConfig(**LLAMA),
    "llama-tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
}

# What our model does not compute, and the key that must be named.
REFUSED = {
    "layer_norm_epsilon": GPT2Config(**GPT2, layer_norm_epsilon=1e-6),
    "activation_function": GPT2Config(**GPT2, activation_function="relu"),
    "n_inner": GPT2Config(**GPT2, n_inner=100),
    "scale_attn_by_inverse_layer_idx": GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True),
    "rms_norm_eps": LlamaConfig(**{**LLAMA, "rms_norm_eps": 1e-6}),
    "attention_bias": LlamaConfig(**LLAMA, attention_bias=True),
    "head_dim": LlamaConfig(**LLAMA, head_dim=32),
    "rope_": LlamaConfig(**LLAMA, rope_scaling={"rope_type": "linear", "factor": 2.0}),
}

failures = []


def check(name, value, limit):
    holds = value <= limit
    print(f"{'ok  ' if holds else 'FAIL'} {name}: {value:.3g} (limit {limit:.3g})", flush=True)
    if not holds:
        failures.append(name)


def load(directory, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=dtype, local_files_only=True
    ).eval()


def our_logits(directory, tokens, out):
    job.run("logits", directory, "--tokens", ",".join(map(str, tokens)), "--out", out)
    return numpy.fromfile(out, "<f4").reshape(len(tokens), -1)


def compare_logits(name, ours, theirs, scratch):
    """Of the full length and of a short sequence."""
    for length in (48, 5):
        tokens = [(7 * i * i + 3) % 300 for i in range(length)]
        with torch.no_grad():
            want = theirs(torch.tensor([tokens])).logits[0].numpy()
        difference = numpy.abs(our_logits(ours, tokens, scratch / "logits") - want).max()
        check(f"{name}/logits of {length}", float(difference), LOGIT_LIMIT)


def exported(name, shape, scratch):
    job.resolve(scratch, job.parameters(**shape))
    job.worker(scratch, scratch / "out", 2, lambda event: None)
    checkpoint = sorted((scratch / "out/checkpoints").iterdir())[-1]
    weights = load_file(checkpoint / "model.safetensors")
    tokens = list(range(0, 300, 7))[:40]
    for dtype, size in (("f32", "1GiB"), ("f32", "60kB"), ("bf16", "60kB"), ("f16", "1GiB")):
        case, out = f"{name}/export {dtype} {size}", scratch / f"hf-{dtype}-{size}"
        job.run("export", scratch / "out", "--out", out, "--dtype", dtype, "--max-shard-size", size)
        shards = sorted(out.glob("model*.safetensors"))
        check(f"{case}/is one file or several", float((len(shards) > 1) != (size == "60kB")), 0)
        there = {key: value for shard in shards for key, value in load_file(shard).items()}
        check(f"{case}/keys", float(set(there) != set(weights)), 0)
        # PyTorch rounds to the nearest, ties to even, too: the very bits.
        wrong = sum(int((there[key] != weights[key].to(TORCH[dtype])).sum()) for key in weights)
        check(f"{case}/weights that PyTorch rounds otherwise", float(wrong), 0)
        check(f"{case}/type", float(load(out, "auto").dtype != TORCH[dtype]), 0)
        model = load(out)
        compare_logits(case, out, model, scratch)
        if dtype == "f32":
            back = our_logits(out, tokens, scratch / "back").tobytes()
            same = back == our_logits(checkpoint, tokens, scratch / "before").tobytes()
            check(f"{case}/bits of logits after export and import", float(not same), 0)
    check(f"{name}/generation config", float(GenerationConfig.from_pretrained(out).max_length != shape["context"]), 0)
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False)


def made(config):
    """With all weights away from their beginnings: biases are zero and norms one at first."""
    torch.manual_seed(5)
    model = (GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.05
    return model.eval()


def imported(name, config, scratch):
    for dtype, size in (("f32", "1GB"), ("bf16", "60KB"), ("f16", "60KB")):
        directory = scratch / f"{name}-{dtype}"
        made(config).to(TORCH[dtype]).save_pretrained(directory, max_shard_size=size)
        compare_logits(f"{name}/import {dtype} {size}", directory, load(directory), scratch)
    return directory


def begins(name, directory, shape, scratch):
    """A job begins with the model: steps too small to change a bit leave its logits. And TensorBoard has what metrics.jsonl has."""
    (scratch / "text").write_text(job.TEXT)
    muster(scratch, "data", "prepare", "text", "--out", "data")
    (scratch / f"{name}.yaml").write_text(
        "apiVersion: muster.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: begins, namespace: team-a}\nspec:\n"
        f"  model: {{{shape}, layers: 2, width: 96, context: 48, vocabulary: 300, tiedEmbeddings: Tied}}\n"
        "  data: {dataset: words}\n  workers: {count: 1}\n"
        '  training: {steps: 8, batch: 4, shards: 2, intervalSteps: 4, optimizer: {learningRate: "1.2e-38"}}\n'
    )
    run, logs = scratch / f"run-{name}", scratch / f"logs-{name}"
    common = ("local", f"{name}.yaml", "--data", "words=data", "--out", run, "--init", directory, "--tensorboard", logs)
    muster(scratch, *common, "--last-step", "4")
    muster(scratch, *common)
    tokens = [(5 * i + 2) % 300 for i in range(48)]
    last = our_logits(run / "checkpoints/step-00000008", tokens, scratch / "last").tobytes()
    check(f"{name}/a job begins with the model", float(last != our_logits(directory, tokens, scratch / "model").tobytes()), 0)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(logs))
    board.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for tag, key in (("loss", "loss"), ("grad_norm", "gradNorm"), ("learning_rate", "lr")):
        want = {line["step"]: struct.unpack("<f", struct.pack("<f", float(line[key])))[0] for line in lines}
        got = {event.step: event.value for event in board.Scalars(tag)}
        check(f"{name}/TensorBoard's {tag}", float(got != want or len(want) != 8), 0)


def muster(scratch, *arguments):
    done = subprocess.run([os.path.abspath(os.environ["MUSTER"]), *map(str, arguments)], cwd=scratch, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"FAIL muster {arguments[0]}: exit {done.returncode}\n{done.stderr}")


def refused(key, config, scratch):
    directory = scratch / "refused"
    made(config).save_pretrained(directory)
    command = [job.TRAINER, "logits", str(directory), "--tokens", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    named = done.returncode == 67 and f"config.json: {key}" in done.stderr
    check(f"refused by name: {key}", float(not named), 0)
    if not named:
        print(done.stderr)


for case, sizes in OURS.items():
    with tempfile.TemporaryDirectory() as temporary:
        exported(case, sizes, pathlib.Path(temporary))
with tempfile.TemporaryDirectory() as temporary:
    temporary = pathlib.Path(temporary)
    saved = {case: imported(case, config, temporary) for case, config in THEIRS.items()}
    if os.environ.get("MUSTER"):
        begins("gpt2-tied", saved["gpt2-tied"], "architecture: gpt2, heads: 3", temporary)
        begins("llama-tied", saved["llama-tied"], "architecture: llama, heads: 6, kvHeads: 2, mlpWidth: 200", temporary)
    else:
        print("SKIP jobs that begin with a model, and TensorBoard: MUSTER names no muster", flush=True)
for key, config in REFUSED.items():
    with tempfile.TemporaryDirectory() as temporary:
        refused(key, config, pathlib.Path(temporary))
print(f"{len(failures)} failed" if failures else "all hold")
sys.exit(1 if failures else 0)
