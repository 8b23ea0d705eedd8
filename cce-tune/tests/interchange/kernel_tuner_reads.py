"""Kernel Tuner reads what cce-tune exports: its simulation mode searches our cache, its T4 schema accepts our results.

Usage: kernel_tuner_reads.py PATH_OF_CCE_TUNE. Tunes a tiny problem on the CPU device, exports it, and searches the export
with Kernel Tuner's own strategies. A GPU's trials, failed ones among them, are the same trials with other schedules.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jsonschema
import kernel_tuner
from kernel_tuner import file_utils, util
from kernel_tuner.interface import tune_cache

TINY = ["--gpu", "cpu", "--tokens", "48", "--hidden", "16", "--vocab", "1500"]


class Tuner:
    """cce-tune with a database of its own."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        folder.mkdir()

    def run(self, *arguments):
        environment = {**os.environ, "CCE_TUNING_DIR": str(self.folder / "database")}
        environment["CCE_CACHE_DIR"] = str(self.folder / "kernels")
        done = subprocess.run([self.program, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"cce-tune {arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def export(self, form, name):
        path = self.folder / name
        self.run("export", "--format", form, str(path))
        return path


def simulated(path, strategy, **options):
    """The results of a strategy of Kernel Tuner's on a cache, as a user runs it."""
    cache = json.loads(path.read_text())
    results, environment = kernel_tuner.tune_kernel(
        kernel_name=cache["kernel_name"],
        kernel_source="",
        problem_size=tuple(cache["problem_size"]),
        arguments=[],
        tune_params=cache["tune_params"],
        cache=str(path),
        simulation_mode=True,
        strategy=strategy,
        quiet=True,
        **options,
    )
    return results, environment


def valid(cache):
    return {place: entry for place, entry in cache["cache"].items() if isinstance(entry["time"], float)}


def searches_the_whole_space(path):
    before = path.read_text()
    cache = json.loads(before)
    best = min(entry["time"] for entry in valid(cache).values())
    results, environment = simulated(path, "brute_force")
    assert len(results) == len(cache["cache"]), (len(results), len(cache["cache"]))
    assert environment["best_config"]["time"] == best
    for strategy in ["random_sample", "greedy_mls", "genetic_algorithm"]:
        results, _ = simulated(path, strategy, strategy_options={"max_fevals": 6})
        assert results, strategy
        assert all(result["time"] >= best for result in results if "__error__" not in result), strategy
    # With a limit on time, Kernel Tuner asks every configuration for what it cost.
    results, _ = simulated(path, "random_sample", strategy_options={"time_limit": 60})
    assert results
    assert path.read_text() == before, "simulation changed the cache"
    print(f"searched {len(cache['cache'])} configurations, best {best} ms")


def searches_a_space_with_holes(path, failed):
    """Trials of a search are no grid: `tune_cache` keeps to those that are there."""
    cache = json.loads(path.read_text())
    results, environment = tune_cache(str(path), strategy="brute_force", quiet=True)
    best = min(entry["time"] for entry in valid(cache).values())
    assert environment["best_config"]["time"] == best
    read = util.read_cache(str(path), open_cache=False)["cache"].values()
    errors = [type(entry["__error__"]).__name__ for entry in read if "__error__" in entry]
    assert sorted(errors) == sorted(failed), errors
    assert len(results) == len(cache["cache"]) - len(failed)
    print(f"searched {len(results)} of {len(cache['cache'])} configurations, {len(failed)} failed")


def is_valid_t4(path):
    version, schema = file_utils.output_file_schema("results")
    results = json.loads(path.read_text())
    jsonschema.validate(results, schema)
    assert results["schema_version"] == version
    assert {result["invalidity"] for result in results["results"]} >= {"correct"}
    print(f"{len(results['results'])} results are T4 {version}")


def as_of_a_gpu(export):
    """The same trials, with schedules of a GPU that vary one part at a time, and one failure of each kind."""
    made = copy.deepcopy(export)
    base = {"family": "wgmma", "chunk": 8192, "hot": None, "logits": {"m": 128, "n": 256, "stages": 4}}
    schedules = [base, {**base, "chunk": 4096}, {**base, "hot": 1024}]
    schedules += [{**base, "logits": {"m": 128, "n": n, "stages": s}} for n, s in [(64, 7), (128, 6), (192, 4)]]
    failures = [("constraint", "InvalidConfig"), ("resources", "InvalidConfig"), ("compile", "CompilationFailedConfig"),
                ("launch", "RuntimeFailedConfig"), ("timeout", "RuntimeFailedConfig"), ("wrong", "RuntimeFailedConfig")]
    schedules += [{**base, "chunk": 100 + place} for place in range(len(failures))]
    one = next(record for record in export["records"] if record["trial"]["status"]["is"] == "ok")
    gpu = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": [9, 0], "sms": 132, "shared_memory_bytes": 232448,
           "l2_bytes": 52428800}
    made["records"] = []
    for place, schedule in enumerate(schedules):
        record = copy.deepcopy(one)
        record["key"]["device"] = {"gpu": gpu}
        trial = record["trial"]
        trial["config"] = {"gpu": schedule}
        trial["provenance"]["unix_ms"] += place
        if place >= len(schedules) - len(failures):
            kind = failures[place - len(schedules) + len(failures)][0]
            trial["status"] = {"is": kind, "reason": f"{kind}, of course"}
            for field in ["samples", "median", "spread"]:
                trial.pop(field)
        else:
            times = [1.0 + 0.25 * place] * 3
            trial.update(samples=times, median=times[0], spread=0.0)
        made["records"].append(record)
    return made, [name for _, name in failures]


def main(program):
    # Kernel Tuner misses block sizes among the knobs.
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        own = Tuner(program, folder / "own")
        own.run(*TINY, "--exhaustive", "--budget", "none")
        searches_the_whole_space(own.export("kernel-tuner", "cache.json"))
        is_valid_t4(own.export("t4", "t4.json"))

        own.run("export", str(folder / "export.json"))
        made, failed = as_of_a_gpu(json.loads((folder / "export.json").read_text()))
        (folder / "made.json").write_text(json.dumps(made))
        gpu = Tuner(program, folder / "gpu")
        gpu.run("import", str(folder / "made.json"))
        searches_a_space_with_holes(gpu.export("kernel-tuner", "cache.json"), failed)
        is_valid_t4(gpu.export("t4", "t4.json"))


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
