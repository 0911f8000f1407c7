"""What do the tests notice? Small faults, one after the other, each shown to the tests of its room.

    python benchmarks/mutants.py                     # all
    python benchmarks/mutants.py evaluation flow     # those of files whose path holds one of these words

Each fault is made in a copy of the package; it is caught where a test fails. Prints those that were not, and the share.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file` of the package the text `right` becomes `wrong`; `tests` are to notice."""

    file: str
    right: str
    wrong: str
    tests: str


FID = "tests/evaluation/test_fid.py"
CACHE, PICTURES = "tests/features/test_cache.py", "tests/data/test_images.py"
LAWS = "tests/laws/test_flow.py"
MUTANTS = [
    Mutant(
        "evaluation/fid.py",
        ".mean(dim=2) if z.dim() > 2",
        ".amax(dim=2) if z.dim() > 2",
        FID,
    ),
    Mutant("evaluation/fid.py", "(self.count - 1)", "self.count", FID),
    Mutant(
        "evaluation/fid.py",
        "max(0.0, float(distance))",
        "float(distance) - 1e-6",
        FID,
    ),
    Mutant("evaluation/fid.py", "self.samples_of[drawn.column].add", "self.samples_of[0].add", FID),
    Mutant(
        "evaluation/fid.py",
        "hash_of([space.key, key])",
        "hash_of([space.key])",
        FID,
    ),
    Mutant(
        "evaluation/looking.py",
        "if each.digest != digest), None",
        "), None",
        "tests/evaluation/test_looking.py",
    ),
    Mutant(
        "evaluation/looking.py",
        'seeded("samples", sampling.seed, index, column)',
        "None",
        "tests/evaluation/test_looking.py",
    ),
    Mutant(
        "evaluation/looking.py", "sampling.temperature * torch", "torch", "tests/evaluation/test_looking.py"
    ),
    Mutant(
        "evaluation/looking.py",
        'generator=seeded("order", sampling.seed)',
        "",
        "tests/evaluation/test_looking.py",
    ),
    Mutant(
        "evaluation/tables.py", "sign * span > 1e-6", "span.abs() > 1e-6", "tests/evaluation/test_tables.py"
    ),
    Mutant(
        "evaluation/faithfulness.py",
        "share: float = 1.0",
        "share: float = 0.9",
        "tests/evaluation/test_faithfulness.py",
    ),
    Mutant("evaluation/invariance.py", "error - within / n", "error", "tests/evaluation/test_invariance.py"),
    Mutant(
        "evaluation/invariance.py",
        "samples.var(dim=1)",
        "samples.var(dim=1, correction=0)",
        "tests/evaluation/test_invariance.py",
    ),
    Mutant(
        "evaluation/likelihood.py", "/ math.log(2)", "* math.log(2)", "tests/evaluation/test_invariance.py"
    ),
    Mutant(
        "evaluation/classes.py",
        "or representation.probabilities",
        "or True",
        "tests/evaluation/test_classes.py",
    ),
    Mutant(
        "evaluation/classes.py",
        "if not representation.has_logits:",
        "if False:",
        "tests/evaluation/test_classes.py",
    ),
    Mutant(
        "evaluation/bootstrap.py",
        "tail = (1 - LEVEL) / 2",
        "tail = 1 - LEVEL",
        "tests/evaluation/test_bootstrap.py",
    ),
    Mutant(
        "evaluation/tables.py",
        "1 - _ratio(means) / 2",
        "1 - _ratio(means)",
        "tests/evaluation/test_tables.py",
    ),
    Mutant("interpreter.py", "given = given.clamp(-1, 1)", "pass", "tests/test_interpreter.py"),
    Mutant("interpreter.py", 'check_values(given, "a picture")', "pass", "tests/cli/test_damage.py -k door"),
    Mutant("interpreter.py", "antialias=True", "antialias=False", "tests/test_interpreter.py"),
    Mutant(
        "interpreter.py",
        "self.flow.inverse(v, z)",
        "self.flow.inverse(v, z[:1])",
        "tests/test_interpreter.py",
    ),
    Mutant("interpreter.py", "(0.5 * posterior.logvar)", "posterior.logvar", "tests/test_interpreter.py"),
    Mutant("flow/couplings.py", "s.sum(dim=1)", "s.mean(dim=1)", LAWS),
    Mutant(
        "flow/couplings.py",
        "torch.cat([b, a], dim=1), log_det_a",
        "torch.cat([a, b], dim=1), log_det_a",
        "tests/zoo/test_zoo.py -k published_rules",
    ),
    Mutant(
        "flow/layers.py", "(std), 1 / (std + 1e-6)", "(std), 1 / (std + 1e-1)", "tests/flow/test_layers.py"
    ),
    Mutant("flow/flow.py", "0.5 * self.latent_dim * math.log", "self.latent_dim * math.log", LAWS),
    Mutant("flow/flow.py", "embedding.repeat_interleave(n, dim=0)", "embedding.repeat(n, 1)", LAWS),
    Mutant(
        "features/cache.py",
        'number = "float32" if each.probabilities else dtype',
        "number = dtype",
        "tests/features/test_cache.py tests/features/test_kinds.py",
    ),
    Mutant(
        "features/cache.py",
        'half = [] if work.precision == "32-true" else ["bfloat16"]',
        "half: list[str] = []",
        "tests/features/test_kinds.py",
    ),
    Mutant(
        "features/stream.py",
        "torch.cat(places).argsort()",
        "torch.cat(places)",
        "tests/features/test_stream.py",
    ),
    Mutant(
        "data/datasets.py",
        "[part, [int(index) for index in dataset.indices]]",
        "[part, sorted(int(index) for index in dataset.indices)]",
        CACHE,
    ),
    Mutant("data/arrays.py", ".round_()", ".floor_()", PICTURES),
    Mutant("data/splitting.py", "int(share * 2**64)", "int(share * 2**63)", "tests/data/test_splitting.py"),
    Mutant(
        "data/images.py",
        "if random.random() < 0.5 else",
        "if random.random() < 0.1 else",
        PICTURES,
    ),
    Mutant(
        "representation/preprocessing.py", "(x + 1) / 2", "x", "tests/representation/test_representation.py"
    ),
    Mutant(
        "representation/preprocessing.py",
        "antialias=self.antialias and smooth",
        "antialias=False",
        "tests/representation/test_outputs.py",
    ),
]


def passes(mutant: Mutant | None, tests: str) -> bool | None:
    """Whether the tests pass on a copy of the package, with this fault in it; None: no answer in time."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        for name in ("invariances", "tests", "configs", "docs", "examples", "benchmarks"):
            shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "Makefile"):
            shutil.copy(ROOT / name, home / name)
        if mutant is not None:
            path = home / "invariances" / mutant.file
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(mutant.right, mutant.wrong, 1), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-qx",
            "-n",
            "0",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
        ]
        try:
            done = subprocess.run(
                [*command, *tests.split()],
                cwd=home,
                env={**os.environ, "PYTHONPATH": place},
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode not in (0, 1, 2):
            raise SystemExit(f"{tests}: pytest ended with {done.returncode}\n{done.stdout.decode()[-2000:]}")
        return done.returncode == 0


def main(words: list[str]) -> None:
    """Tries all mutants, or those of files whose path holds one of the words."""
    chosen = [each for each in MUTANTS if not words or any(word in each.file for word in words)]
    for tests in dict.fromkeys(each.tests for each in chosen):
        seen = passes(None, tests)
        if seen is not True:
            trouble = f"take over {SECONDS} s" if seen is None else "fail"
            raise SystemExit(
                f"{tests} {trouble} without any fault; mend them first, or try on an idle machine"
            )
    missed = stale = 0
    for number, mutant in enumerate(chosen, 1):
        if (ROOT / "invariances" / mutant.file).read_text(encoding="utf-8").count(mutant.right) != 1:
            found, stale = "STALE: its text is gone, or stands there twice", stale + 1
        else:
            seen = passes(mutant, mutant.tests)
            found = {True: "MISSED", None: "NO ANSWER in time, counted as missed", False: "caught"}[seen]
            missed += seen is not False
        print(f"{number}/{len(chosen)} {found}  {mutant.file}: {mutant.wrong}", flush=True)
    tried = len(chosen) - stale
    print(f"{tried - missed} of {tried} faults were caught: {100 * (1 - missed / max(tried, 1)):.0f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
