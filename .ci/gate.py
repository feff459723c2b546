#!/usr/bin/env python3
"""Compares the instructions, allocations and sizes of a call with checked-in figures.

    python3 .ci/gate.py                   # builds, measures and compares
    python3 .ci/gate.py --bless           # builds, measures and writes the figures
    python3 .ci/gate.py --figures FILE    # compares with, or writes, another file
    python3 .ci/gate.py --self-test

The program `benches/gate` makes the same calls with the same instructions each time. Callgrind
counts them for n calls and for 2n calls. The difference divided by n is the figure of one call.
Only instructions of the program's own code are counted. Calls of `memcpy` are a separate figure,
because the implementation that libc chooses depends on the CPU. The figures belong to a version of
the compiler.

The check fails if one of these figures grows:

- instructions, by more than 10 % for a lone layer or 3 % for combined layers, and by more than 2
- calls of `memcpy`, by the same percentages, and by more than 1
- allocations, clock reads, or the bytes of a future or a response, by any amount

A smaller figure is printed and passes. Write it with `--bless`, and later growth will fail.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIGURES = os.path.join(ROOT, "benches", "gate", "figures.json")
CALLS = 2_000
TOLERANCE = {"lone": 0.10, "composite": 0.03}
# The growth that is always allowed, because it can be a large percentage of a small figure.
SLACK = {"instructions": 2, "memcpy": 1}
EXACT = ("allocations", "clock_reads", "future", "response")
HEADER = ("case", "instructions", "figure", "%", "memcpy", *EXACT)


# The output of Callgrind.


def names(pattern):
    """Returns a function that reads `key=(id) name`, where each name is printed only once."""
    known = {}

    def read(line):
        found = re.fullmatch(pattern, line)
        if not found:
            return None
        number, name = found.groups()
        if name:
            known[number] = name
        return known[number]

    return read


def counts(lines, binary):
    """Returns the instructions in code of `binary`, and the calls of `memcpy` from it."""
    object_name = names(r"c?ob=(\(\d+\))(?: (.*))?")
    function_name = names(r"c?fn=(\(\d+\))(?: (.*))?")
    within, called, inclusive = None, None, False
    instructions, copies = 0, 0
    for line in lines:
        line = line.rstrip("\n")
        if line.startswith("ob="):
            within = object_name(line)
        elif line.startswith("cob="):
            object_name(line)
        elif line.startswith("fn="):
            function_name(line)
        elif line.startswith("cfn="):
            called = function_name(line)
        elif line.startswith("calls="):
            if within == binary and re.match(r"_*mem(cpy|move)", called):
                copies += int(line[len("calls="):].split()[0])
            # The next line has the cost of the called function.
            inclusive = True
        elif re.match(r"[+*\-\d]", line):
            if within == binary and not inclusive:
                instructions += int(line.split()[1])
            inclusive = False
    return instructions, copies


def callgrind(binary, case, calls):
    with tempfile.NamedTemporaryFile("r", prefix="callgrind-") as out:
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}"]
        run([*tool, binary, "run", case, str(calls)])
        return counts(out, binary)


# Measuring.


def run(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build():
    """Builds the program and returns its path."""
    command = ["cargo", "build", "--quiet", "--profile", "gate", "-p", "gate"]
    messages = ["--message-format", "json-render-diagnostics"]
    done = subprocess.run([*command, *messages], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("benches/gate does not build")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return next(m["executable"] for m in messages if m.get("executable"))


def compiler():
    lines = run(["rustc", "--version", "--verbose"]).splitlines()
    host = next(line for line in lines if line.startswith("host: "))
    return f"{lines[0]}, {host.removeprefix('host: ')}"


def measure(binary, case):
    """Returns the figures of one call."""
    few, few_copies = callgrind(binary, case, CALLS)
    many, many_copies = callgrind(binary, case, 2 * CALLS)
    lines = run([binary, "facts", case]).splitlines()
    facts = dict(line.split() for line in lines)
    return {
        "instructions": round((many - few) / CALLS, 1),
        "memcpy": round((many_copies - few_copies) / CALLS, 2),
        # Counted over 1,000 calls, which includes the occasional growth of a map.
        "allocations": int(facts["allocations"]) / 1_000,
        "clock_reads": int(facts["clock_reads"]) / 1_000,
        "future": int(facts["future"]),
        "response": int(facts["response"]),
    }


def measure_all(binary):
    """Returns the kind of each case by its name, and its figures."""
    lines = [line.split(" ", 1) for line in run([binary, "list"]).splitlines()]
    kinds = {name: kind for kind, name in lines}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        figures = pool.map(lambda case: measure(binary, case), kinds)
        return kinds, dict(zip(kinds, figures))


# Comparing.


def compare(kind, was, now):
    """Returns the figures that got worse, and those that got better, as sentences."""
    worse, better = [], []
    for key in now:
        step = f"{key}: {was[key]:g} before, {now[key]:g} now"
        if now[key] > was[key] + allowance(kind, key, was[key]):
            worse.append(step)
        elif now[key] < was[key] - allowance(kind, key, was[key]):
            better.append(step)
    return worse, better


def allowance(kind, key, was):
    return 0 if key in EXACT else max(SLACK[key], was * TOLERANCE[kind])


def faults(kinds, before, now):
    """Returns the figures of all cases that got worse, and those that got better, as lines."""
    worse = [f"{case}: it has no checked-in figure" for case in kinds if case not in before]
    worse += [f"{case}: its figure has no case" for case in before if case not in kinds]
    better = []
    for case in kinds:
        if case in before:
            pair = compare(kinds[case], before[case], now[case])
            worse += [f"{case}: {step}" for step in pair[0]]
            better += [f"{case}: {step}" for step in pair[1]]
    return worse, better


def table(now, before):
    rows = [HEADER]
    for case, figures in now.items():
        was = before.get(case, {})
        instructions = f"{figures['instructions']:.1f}"
        rest = [change(was.get(key), figures[key]) for key in ("memcpy", *EXACT)]
        rows.append((case, instructions, *in_percent(was, figures), *rest))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  ".join([row[0].ljust(widths[0]), *cells]))


def in_percent(was, now):
    if "instructions" not in was:
        return "-", "-"
    growth = now["instructions"] / was["instructions"] - 1
    return f"{was['instructions']:.1f}", f"{100 * growth:+.1f}"


def change(was, now):
    return f"{now:g}" if was in (None, now) else f"{was:g} -> {now:g}"


# Commands.


def load(path):
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def bless(path, checked_in, version, now):
    checked_in[version] = now
    lines = []
    for compiler_version in sorted(checked_in):
        figures = checked_in[compiler_version].items()
        cases = [f"    {json.dumps(case)}: {json.dumps(of_case)}" for case, of_case in figures]
        lines.append(f"  {json.dumps(compiler_version)}: {{\n" + ",\n".join(cases) + "\n  }")
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def check(version, checked_in, kinds, now):
    """Prints the changes, and returns the exit status."""
    if version not in checked_in:
        print(f"\nThere are no figures for {version}.")
        print("Write them with `python3 .ci/gate.py --bless`, on a tree that passed with another.")
        return 1
    worse, better = faults(kinds, checked_in[version], now)
    for line in better:
        print(f"better: {line}")
    for line in worse:
        print(f"worse: {line}")
    if better:
        print("Keep what is better with `python3 .ci/gate.py --bless`.")
    if worse:
        print("If the price is meant, write it with `python3 .ci/gate.py --bless`,")
        print("and give the reason in the commit.")
    return 1 if worse else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bless", action="store_true", help="write the figures")
    parser.add_argument("--figures", default=FIGURES, help="the file of figures")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    version, checked_in = compiler(), load(arguments.figures)
    kinds, now = measure_all(build())
    table(now, checked_in.get(version, {}))
    if arguments.bless:
        bless(arguments.figures, checked_in, version, now)
        return 0
    return check(version, checked_in, kinds, now)


# Self-test.

SAMPLE = """\
ob=(1) /gate
fl=(1) main.rs
fn=(1) main
10 5
+2 7
cob=(2) /libc.so.6
cfn=(2) __memcpy_avx_unaligned
calls=3 0
* 900
cob=(1)
cfn=(3) helper
calls=2 +1
* 40
-1 1

ob=(2)
fn=(2)
0 900

ob=(1)
fn=(3)
12 40
"""


def self_test():
    assert counts(SAMPLE.splitlines(True), "/gate") == (53, 3)
    figures = {"instructions": 100, "memcpy": 2, "allocations": 0, "clock_reads": 1}
    figures |= {"future": 64, "response": 8}
    planted = [
        ("nothing changed", "composite", {}, 0, 0),
        ("3 % more instructions", "composite", {"instructions": 103}, 0, 0),
        ("4 % more instructions", "composite", {"instructions": 104}, 1, 0),
        ("the same in a lone layer", "lone", {"instructions": 104}, 0, 0),
        ("11 % more in a lone layer", "lone", {"instructions": 111}, 1, 0),
        ("11 % fewer", "lone", {"instructions": 89}, 0, 1),
        ("one more memcpy", "lone", {"memcpy": 3}, 0, 0),
        ("two more", "lone", {"memcpy": 4}, 1, 0),
        ("an allocation in one of 1,000 calls", "lone", {"allocations": 0.001}, 1, 0),
        ("a clock read", "lone", {"clock_reads": 2}, 1, 0),
        ("a larger future", "lone", {"future": 72}, 1, 0),
        ("a smaller future", "lone", {"future": 56}, 0, 1),
        ("a larger response and a smaller future", "lone", {"response": 16, "future": 56}, 1, 1),
    ]
    for what, kind, change, worse, better in planted:
        found = faults({"case": kind}, {"case": figures}, {"case": figures | change})
        assert [len(lines) for lines in found] == [worse, better], (what, found)
    small = figures | {"instructions": 10}
    assert compare("lone", small, small | {"instructions": 12}) == ([], [])
    assert len(faults({"new": "lone"}, {}, {"new": figures})[0]) == 1
    assert len(faults({}, {"gone": figures}, {})[0]) == 1
    print(f"gate: {len(planted) + 4} planted examples reported as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
