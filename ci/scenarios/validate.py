#!/usr/bin/python3 -B
"""Every scenario is valid by the JSON Schema that `farside run --schema` prints.

usage: validate.py FARSIDE SCENARIOS-FOLDER
"""

import json
import pathlib
import subprocess
import sys

import jsonschema


def evaluate(path):
    if path.suffix == ".json":
        return json.loads(path.read_text())
    run = subprocess.run(["jsonnet", path], capture_output=True, text=True, timeout=60)
    if run.returncode != 0:
        sys.exit(f"validate: {path}: {run.stderr}")
    return json.loads(run.stdout)


def main():
    farside, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    schema = json.loads(subprocess.run([farside, "run", "--schema"], capture_output=True, text=True,
                                       timeout=60, check=True).stdout)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    checker = validator(schema)
    files = sorted([*folder.rglob("*.jsonnet"), *folder.rglob("*.json")])
    wrong = [f"{path}: {'/'.join(map(str, error.path))}: {error.message}"
             for path in files for error in checker.iter_errors(evaluate(path))]
    print("\n".join(wrong) or f"{len(files)} scenarios are valid by the schema")
    # A schema that takes anything would prove nothing.
    broken = {"name": "x", "description": "y", "steps": [{"bar.raed": {"bar": 0}}]}
    if next(checker.iter_errors(broken), None) is None:
        wrong.append("the schema takes a step with a verb that does not exist")
        print(wrong[-1])
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
