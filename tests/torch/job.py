"""A job for the trainer under test, made and run as a person would: no part of the trainer is imported."""

import json
import os
import pathlib
import subprocess

TRAINER = os.environ.get("TRAINER", "muster-trainer")

# Words with some structure, so that a model can learn something of it.
TEXT = " ".join(f"{'the of and to in that he shall unto for'.split()[i * i % 10]} {i % 97}" for i in range(60_000))


def run(*arguments):
    """Runs the trainer to its end and gives its stdout."""
    done = subprocess.run([TRAINER, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"FAIL muster-trainer {arguments[0]}: exit {done.returncode}")
    return done.stdout


def parameters(
    *, layers, width, heads, context, vocabulary, tied, batch, shards, steps, llama=None, arithmetic="f32-chain"
):
    """Model and training parameters as the resolved spec spells them."""
    return {
        "model": {
            "architecture": "llama" if llama else "gpt2",
            **({"llama": llama} if llama else {}),
            "layers": layers,
            "width": width,
            "heads": heads,
            "context": context,
            "vocabulary": vocabulary,
            "tiedEmbeddings": "Tied" if tied else "Untied",
        },
        "training": {
            "steps": steps,
            "batch": batch,
            "shards": shards,
            "seed": 0,
            "arithmetic": arithmetic,
            "optimizer": {
                "name": "adamw",
                "learningRate": "6e-4",
                "beta1": "0.9",
                "beta2": "0.95",
                "epsilon": "1e-8",
                "weightDecay": "0.1",
                "clipNorm": "1.0",
            },
            "schedule": {"name": "cosine", "warmupSteps": min(20, steps), "finalFraction": "0.1"},
        },
    }


def resolve(directory, wanted, evaluation=None):
    """Makes spec.json and data/ in `directory`; with (every so many steps, sequences) also eval-data/, another text's."""
    directory = pathlib.Path(directory)
    (directory / "job.json").write_text(json.dumps(wanted))
    (directory / "text").write_text(TEXT)
    arguments = ["--job", directory / "job.json", "--text", directory / "text", "--out", directory]
    if evaluation:
        (directory / "eval-text").write_text(TEXT[::-1][:2000])
        every, sequences = evaluation
        arguments += ["--eval-text", directory / "eval-text", "--eval-every", every, "--eval-sequences", sequences]
    run("resolve", *arguments)
    return directory


def worker(directory, out, threads, on_event):
    """Runs a worker; its stdin stays open, since its end would stop it."""
    command = [TRAINER, "worker", "--spec", directory / "spec.json", "--data", directory / "data", "--out", out]
    if (directory / "eval-data").exists():
        command += ["--eval-data", directory / "eval-data"]
    command += ["--threads", threads, "--interval-steps", 100_000]
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        on_event(json.loads(line))
    if process.wait() != 0:
        raise SystemExit(f"FAIL muster-trainer worker: exit {process.returncode}")
