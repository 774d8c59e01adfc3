"""The package from outside: what it loads, and what can take its place."""

import subprocess
import sys
from pathlib import Path

import program_toolkit

MODULES = sorted(path.stem for path in Path(program_toolkit.__file__).parent.glob("[!_]*.py"))
# What only some functions need, or programs alone.
LATER = ("pandas", "pyarrow", "boto3", "botocore", "gam_model", "scipy", "sklearn", "model_server")
IMPORTS = "".join(f"import program_toolkit.{name}\n" for name in MODULES)


def test_every_module_loads_with_numpy_and_orjson_alone():
    script = f"import sys\nsys.modules.update(dict.fromkeys({LATER!r}))  # barred\n{IMPORTS}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_modules_beside_a_program_do_not_take_the_place_of_the_toolkits(tmp_path):
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text("raise ImportError('not the toolkit')\n")
    (tmp_path / "program.py").write_text(IMPORTS)
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
