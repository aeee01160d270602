"""Plans of the paper-size configs on TPUs that are named below, as one table: docs/plan.md.

    python -m benchmarks.plan_report [--only decoder,prior] [--topologies v5e:16x16] [--table]

Each plan is ``t2i plan`` in a process of its own and leaves docs/plan/NAME.json. A plan is made again only where the
sources or the versions it came from have changed; what the compiler made stays in build/plan and is compiled again only
where the program itself has changed, so the command can be stopped and started again. ``--table`` writes the table from
the plans that there are. Needs libtpu, which one process at a time may hold, and no TPU.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tokenize
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from t2i_jax.training.bars import Panel, draw

ROOT = Path(__file__).parents[1]
PLANS, KEPT = ROOT / "docs/plan", ROOT / "build/plan"
CONFIGS = ("vae", "clip", "prior", "decoder", "upsampler256", "upsampler1024")
TOPOLOGIES = (("v5e:16x16", 1), ("v6e:16x16", 1), ("v5p:8x8x8", 1), ("v5p:8x8x8", 4))
BATCHES = {("upsampler256", "v5p:8x8x8", 4): 2048, ("upsampler1024", "v5p:8x8x8", 4): 2048}
"""Of those that have more chips than the paper's batch has pictures."""
DECIDES = (
    "t2i_jax/models/*.py", "t2i_jax/stages/*.py", "t2i_jax/diffusion/*.py",
    *(f"t2i_jax/parallel/{name}.py" for name in ("chips", "hlo", "hlotext", "mesh", "options", "rules", "schedule",
                                                 "topology")),
    *(f"t2i_jax/training/{name}.py" for name in ("compiled", "experiment", "flops", "minimum", "optimizer",
                                                 "plan", "plan_warnings", "program", "state", "step")),
    "configs/dalle2/*.py",
)  # fmt: skip
"""The code that decides a plan."""
TOOLS = ("jax", "jaxlib", "flax", "optax", "libtpu")
GIB = 2**30
COLUMNS = (
    "config", "mesh", "batch", "parameters", "GiB a chip: state + rest", "of HBM", "of the least", "FLOPs", "messages",
    "alone: compute, memory, links, network", "waits", "at best", "MFU", "in order", "MFU", "images/s", "hours", "chip-hours",
    "compiled",
)  # fmt: skip
TEXT = """# What the paper-size configs need, and what a step would take

Made by `make plan-report` from the TPU compiler's own programs; no TPU ran. **Times, MFU and hours are estimates** with the
assumptions below: a roofline, and the program played operation by operation. Every row's whole plan, with each kind of message
and the warnings, is a JSON file in [docs/plan](plan), with its picture beside it. Compiled with {tools}.

- *GiB a chip*: what the step is given (parameters, their average, moments, frozen stages, batch) + what it needs
  besides. *Of HBM*: of what the compiler lets a program have. *Of the least*: over the least that such a step must hold
  (`t2i_jax/training/minimum.py`); below 1 where that counts a little too much, as of the VAE.
- *FLOPs*: as compiled over the model's own, nothing recomputed. The configs keep every product of a layer for the backward
  pass, but CLIP's only the first of the text tower's MLPs, which is what fits: to compute no more than a tenth again, its 128
  pairs a chip would have to keep 24 GiB of what a v5e has 16. The host has room, but its way takes longer than the step:
  `t2i plan configs/dalle2/clip.py --topology v5e:16x16 --stage.model.vision.remat.offload inner qkv` fits and computes 1.10, and
  a step takes 2,573 ms at best. With `remat.keep` empty, all is computed again: 1.28, 1.25, 1.21, 1.30, 1.11 and 1.04 in the
  order of the first table.
- *Messages*: bytes on the links along `data` over those of fully sharded data parallelism: two gathers of each
  parameter and one scatter of its gradient in half precision, and one gather of each frozen one.
- *Alone*, in ms: what each part of a step would take by itself. *Waits*: for how long a chip waits for messages, which are
  played in the program's order (`t2i_jax/parallel/schedule.py`): one that begins beside other work is waited for as far as that
  work is shorter. *At best*: the roofline, the longest part and what is waited for. *In order*: each operation takes the longer
  of its products and its traffic with memory, and then comes the next; pictures a second and hours are of this.
- *Compiled*: wall time and memory of the process that compiled; what else ran on that machine counts too. A plan has the
  compiler search less how products are cut into blocks, which comes after all that is read here but the code's size: a
  training's code may take up to 0.25 GiB more (the VAE's does), and compiling it twice as long.
- The mesh is replica × data × model.
- *Batch*: the paper's; 2,048 for an upsampler on 2,048 chips, which the paper's 1,024 and 512 would leave idle.
{old}
{assumptions}

{tables}
![memory and time by part](plan/overview.png)
"""
OLD = "- †: of an earlier state of the code, or of other versions, than the present ones.\n"


def name(config: str, topology: str, slices: int) -> str:
    """Of a plan's file."""
    return f"{config}-{topology.replace(':', '-')}" + (f"-{slices}-slices" if slices > 1 else "")


def sources() -> str:
    """Digest of all that a plan depends on: the code of the rooms that decide it, configs and versions."""
    digest = hashlib.sha256(versions(*TOOLS).encode())
    for path in (path for pattern in DECIDES for path in sorted(ROOT.glob(pattern))):
        digest.update(_without_words(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def versions(*names: str) -> str:
    found = []
    for one in names:
        try:
            found.append(f"{one} {version(one)}")
        except PackageNotFoundError:
            found.append(f"{one} none")
    return ", ".join(found)


def _without_words(text: str) -> str:
    """A module's text without comments and what it says of itself: a config's figures come from its plan."""
    text = text.split('"""', 2)[2] if text.startswith('"""') else text
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(filter(None, map(str.rstrip, lines)))


def make(config: str, topology: str, slices: int) -> None:
    """Plan one config in a process of its own, unless its file is of these sources."""
    out, now = PLANS / f"{name(config, topology, slices)}.json", sources()
    if out.exists() and json.loads(out.read_text()).get("sources") == now:
        return
    print(f"{out.stem} …", flush=True)
    command = [sys.executable, "-m", "t2i_jax.cli", "plan", f"configs/dalle2/{config}.py", "--topology", topology,
               "--slices", str(slices), "--out", str(out), "--keep", str(KEPT)]  # fmt: skip
    if batch := BATCHES.get((config, topology, slices)):
        command += ["--data.batch", str(batch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 2 or not out.exists() or (done.returncode and "DOES NOT FIT" not in done.stdout):
        print(done.stdout + done.stderr, file=sys.stderr)
        return
    plan = json.loads(out.read_text()) | {"sources": now, "tools": versions(*TOOLS)}
    out.write_text(json.dumps(plan, indent=1) + "\n")
    print(
        "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("warning", "assumed"))), flush=True
    )


def row(config: str, plan: dict, now: str) -> list[str]:
    """One plan's cells; ``now``: digest of the sources as they are."""
    memory, seconds, ratios = plan["memory"], plan["seconds"], plan["ratios"]
    given = sum(memory[part] for part in ("params", "ema", "moments", "frozen", "batch"))
    mesh = "×".join(str(size) for size in plan["mesh"].values())
    times = {part: f"{1e3 * value:.0f}" for part, value in seconds.items()}
    messages, best, likely = ratios["messages"], plan["at_best"], plan["in_order"]
    return [
        config + ("" if plan.get("sources") == now else " †"), mesh, f"{plan['batch']:,}", f"{plan['parameters'] / 1e6:,.0f} M",
        f"{given / GIB:.2f} + {(memory['peak'] - given) / GIB:.2f}" + ("" if plan["fits"] else " **does not fit**"),
        f"{memory['peak'] / plan['usable']:.0%}", f"{ratios['memory']:.2f}", f"{ratios['flops']:.2f}",
        "–" if messages is None else f"{messages:.2f}",
        ", ".join(times[part] for part in ("compute", "memory", "ICI", "DCN")), times["waits"],
        times["at best"], f"{best['mfu']:.0%}", times["in order"], f"{likely['mfu']:.0%}",
        f"{likely['images_per_second']:,.0f}", f"{likely['hours']:,.0f}", f"{likely['chip_hours']:,.0f}",
        f"{plan['compile_seconds']:.0f} s, {plan['compile_bytes'] / GIB:.1f} GiB",
    ]  # fmt: skip


def report() -> None:
    """docs/plan.md and its picture, from the plans that there are."""
    tables, assumptions, tools, now, bars = [], (), set(), sources(), ({}, {})
    for topology, slices in TOPOLOGIES:
        rows, missing = [], []
        for config in CONFIGS:
            path = PLANS / f"{name(config, topology, slices)}.json"
            if not path.exists():
                missing.append(config)
                continue
            plan = json.loads(path.read_text())
            assumptions = plan["assumptions"]
            tools |= {plan["tools"]} if "tools" in plan else set()
            rows.append(row(config, plan, now))
            label, seconds = f"{config} {topology}" + (f" x {slices}" if slices > 1 else ""), plan["seconds"]
            bars[0][label] = {part: size / GIB for part, size in plan["memory"].items() if part != "peak"}
            hidden = seconds["at best"] - seconds["waits"]
            bars[1][label] = {
                "products": 1e3 * seconds["compute"],
                "memory or messages beyond them": 1e3 * (hidden - seconds["compute"]),
                "waiting for messages": 1e3 * seconds["waits"],
                "operations one after another": 1e3 * (seconds["in order"] - seconds["at best"]),
            }
        lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
        where = f"{slices} slices of {topology}" if slices > 1 else topology
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        lack = f"\nNot planned yet: {', '.join(missing)}.\n" if missing else ""
        tables.append(f"## {where}\n\n{table}\n{lack}" if rows else f"## {where}\n{lack}")
    listed = "\n".join(f"- {text}" for text in assumptions)
    every = "\n".join(tables)
    text = TEXT.format(
        tools="; ".join(sorted(tools)), old=OLD if "†" in every else "", assumptions=f"Assumed:\n\n{listed}", tables=every
    )
    (ROOT / "docs/plan.md").write_text(text, encoding="utf-8")
    draw([Panel("memory a chip", "GiB", bars[0]), Panel("a step, estimated", "ms", bars[1])], PLANS / "overview.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CONFIGS), help="configs, by commas")
    parser.add_argument("--topologies", default="", help="topologies, by commas; 4xv5p:8x8x8 for slices (default: all)")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    given = parser.parse_args()
    wanted = given.topologies.split(",") if given.topologies else []
    for topology, slices in TOPOLOGIES if not given.table else ():
        if not wanted or (topology if slices == 1 else f"{slices}x{topology}") in wanted:
            for config in given.only.split(","):
                make(config, topology, slices)
                report()
    report()


if __name__ == "__main__":
    main()
