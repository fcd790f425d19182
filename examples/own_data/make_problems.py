"""Writes train.jsonl and test.jsonl: puzzles in a format of one's own, to stand for your data.

python examples/own_data/make_problems.py runs/own-data
"""

import json
import random
import sys
from pathlib import Path

directory = Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
rng = random.Random(0)
for name, num_rows in (("train", 500), ("test", 200)):
    with (directory / f"{name}.jsonl").open("w") as file:
        for _ in range(num_rows):
            numbers = [rng.randint(1, 15) for _ in range(4)]
            target = rng.randint(10, 60)
            question = f"{' '.join(map(str, numbers))} = {target} :"
            file.write(json.dumps({"question": question, "may_use": numbers, "goal": target}) + "\n")
