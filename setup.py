"""The packages of a wheel: ``agents``, ``cli`` and ``configs`` of a checkout have names there that collide with none.

An editable installation shows the checkout as it is. For a wheel the packages are built as ``kd_env_agents``,
``kd_env_cli`` and ``kd_env_configs``, and imports of them in our sources are written so; ``kd_env.renamed`` keeps
``import agents`` working. Everything else about the distribution is in pyproject.toml.
"""

import ast
import re
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

EDITABLE = {"editable_wheel", "develop"} & set(sys.argv)
RENAMED = {} if EDITABLE else {name: f"kd_env_{name}" for name in ("agents", "cli", "configs")}
OWN = ("kd_files*", "kd_env", "kd_env.*", "agents*", "cli*", "configs*")
DATA = {
    "kd_env": ["py.typed", "**/*.safetensors", "**/*.json", "**/*.txt"],
    "kd_files": ["py.typed"],
    "agents": ["py.typed"],
    "cli": ["py.typed"],
    "configs": ["**/*.yaml"],
}
_IMPORT = re.compile(rf"^(\s*)(from|import) ({'|'.join(RENAMED) or '(?!)'})\b(.*)$", re.MULTILINE)


def renamed(package: str) -> str:
    """Name of a package in what is built."""
    top, dot, rest = package.partition(".")
    return RENAMED.get(top, top) + dot + rest


def rewritten(source: str, path: str) -> str:
    """Our source with the imports of renamed packages under their new names.

    Raises:
        ValueError: an import that is still of an old name; it would be somebody else's package.
    """

    def new(found: re.Match[str]) -> str:
        indent, word, top, rest = found.groups()
        bound = f" as {top}" if word == "import" and not rest.strip() else ""
        return f"{indent}{word} {RENAMED[top]}{bound}{rest}"

    text = _IMPORT.sub(new, source)
    for node in ast.walk(ast.parse(text, path)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        left = [name for name in names if name.split(".")[0] in RENAMED]
        if left:
            raise ValueError(f"{path}:{node.lineno} imports {left[0]}: write `from {left[0]} import ...`.")
    return text


class Build(build_py):
    """Copies our packages, the imports of renamed ones rewritten."""

    def build_module(self, module: str, module_file: str, package: str) -> object:
        """Copy one module."""
        result = super().build_module(module, module_file, package)
        if RENAMED and not self.editable_mode:
            path = Path(result[0])
            path.write_text(rewritten(path.read_text(encoding="utf-8"), module_file), encoding="utf-8")
        return result


packages = find_packages(include=OWN)
setup(
    packages=[renamed(package) for package in packages],
    package_dir={new: old for old, new in RENAMED.items()},
    package_data={renamed(package): files for package, files in DATA.items()},
    # `python train_agent.py` is a checkout's; a wheel has `kd-env train`.
    py_modules=["train_agent"] if EDITABLE else [],
    entry_points={"console_scripts": [f"kd-env = {renamed('cli')}.main:main"]},
    cmdclass={"build_py": Build},
)
