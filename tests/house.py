"""The house law of headstart as code: the table of floors, and one function per rule. ``test_floors.py`` applies it.

``python tests/house.py 0 1 2`` lists the files on those floors (``.ci/run`` type-checks them strictly).

Adding a module: one line in ``FLOORS``. The rules:

* a module imports only from lower floors; the front door (``headstart`` itself) is imported by nobody;
* rooms on one floor do not import each other, beyond the pairs in ``SAME_FLOOR``, each with its reason;
* a member of a family imports its folder's ``base.py`` and helper files, no other member;
* a private file (``_x.py``) is imported by its own folder only; nowhere may imports form a circle;
* imports of this package stand at the top of the file, except in ``_base/registry.py`` and the door;
* floors 0 to 2 never import torch or what pulls it in;
* names are the field's own: no variable is called ``found`` or ``kept`` (``DIALECT`` says what to write), and no class
  name stands for two things;
* files have at most 500 lines (those in ``LONG``, with a reason, at most 800), folders at most 18 files, functions at
  most 4 positional parameters; nine in ten functions have at most 35 lines; public names have docstrings; nothing
  prints outside the command line; no file is called ``utils.py``; the tables of families name what exists;
* of every file a test names something: what it defines, or what a family's table calls that.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src"

FLOORS: dict[str, int] = {
    **dict.fromkeys(["errors", "_base", "_progress"], 0),
    # 1: what happened, and numbers; no torch
    **dict.fromkeys(["bank", "dataset", "linalg", "metrics", "moments", "result"], 1),
    # 2: numbers from numbers; no torch
    **dict.fromkeys(["distances", "heads", "imbalance", "scores", "selection", "summarization"], 2),
    # 3: borders
    **dict.fromkeys(["engines", "pooling", "readers", "runners", "sources"], 3),
    # 4 to 9
    **dict.fromkeys(["extraction", "policies", "speech_heads", "training"], 4),
    **dict.fromkeys(["finetuning", "predictor", "pretraining", "ranking"], 5),
    **dict.fromkeys(["reporting", "transfer"], 6),
    **dict.fromkeys(["demo", "estimators", "federated", "proof"], 7),
    **dict.fromkeys(["cli", "serve"], 8),
    **dict.fromkeys(["", "__main__"], 9),
}

FAMILIES = frozenset(
    {"distances", "engines", "heads", "metrics", "policies", "readers", "runners", "scores", "sources", "speech_heads"}
)

SAME_FLOOR: dict[tuple[str, str], str] = {
    ("bank", "dataset"): "FeatureBank.rows takes a Dataset",
    ("bank", "moments"): "FeatureBank.summarise gives Moments",
    ("engines", "pooling"): "a session pools what a layer gives",
    ("engines", "sources"): "an engine runs a source's backend",
    ("metrics", "dataset"): "labels are read as targets are",
    ("metrics", "result"): "evaluate() gives a Result",
    ("moments", "linalg"): "principal coordinates of a scatter matrix",
    ("selection", "heads"): "a search runs over heads",
    ("selection", "imbalance"): "choosing a head balances classes by the one switch",
    ("policies", "training"): "a policy carries a TrainingConfig",
    ("speech_heads", "training"): "a CTC head carries a TrainingConfig",
    ("training", "extraction"): "augmented items are read as extraction reads them",
}

LONG: dict[str, str] = {
    "moments.moments": "one class: what is kept, what follows exactly from it, how it merges",
}

LIGHT = 2  # floors up to this one run without torch
HEAVY = frozenset({"keras", "tensorflow", "timm", "torch", "torchvision", "transformers"})
MOST_LINES, HARD_STOP, MOST_PARAMETERS, MOST_METHODS, P90_LINES, MOST_FILES = 500, 800, 4, 20, 35, 18
DELAYED_ALLOWED = frozenset({"", "_base.registry"})
SPEAKERS = frozenset({"cli", "__main__"})
BANNED_NAMES = frozenset({"utils", "util", "helpers", "helper", "misc", "common"})


@dataclass(frozen=True)
class Import:
    """One import: what, where, whether inside a function, whether only for type checkers."""

    target: str
    line: int
    delayed: bool = False
    typing: bool = False


@dataclass(frozen=True)
class Module:
    """One file: its dotted name inside the package (``""`` is the door, ``"heads"`` a folder's ``__init__``)."""

    name: str
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def room(self) -> str:
        """The first part of the name: what the table of floors knows."""
        return self.name.partition(".")[0]

    @property
    def is_folder(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def private(self) -> bool:
        return any(part.startswith("_") for part in self.name.split("."))

    def at(self, line: int) -> str:
        return f"{self.name or '__init__'}:{line}"


@dataclass(frozen=True)
class House:
    """A package as the rules see it; tests build small ones."""

    source: Path = SOURCE
    package: str = "headstart"
    tests: Path = TESTS
    floors: dict[str, int] = field(default_factory=lambda: FLOORS)
    families: frozenset[str] = FAMILIES
    same_floor: dict[tuple[str, str], str] = field(default_factory=lambda: SAME_FLOOR)
    long: dict[str, str] = field(default_factory=lambda: LONG)

    @cached_property
    def modules(self) -> dict[str, Module]:
        root = self.source / self.package
        result = {}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            result[name] = Module(name, path, path.read_text(encoding="utf-8"))
        return result

    @cached_property
    def tested(self) -> set[str]:
        """Every word in the tests."""
        return set(re.findall(r"\w+", " ".join(path.read_text(encoding="utf-8") for path in self.tests.rglob("*.py"))))

    @cached_property
    def members(self) -> set[str]:
        """The files that the tables of families name: one member in each, or a few small ones of one kind."""
        bases = [m for m in self.modules.values() if m.room in self.families and m.name.endswith(".base")]
        named = {text.partition(":")[0] for m in bases for text in _table_values(m.tree)}
        own_values = {name.partition(f"{self.package}.")[2] for name in named}
        return own_values.intersection(self.modules) - {m.name for m in bases}

    def floor(self, module: Module) -> int | None:
        return self.floors.get(module.name, self.floors.get(module.room))

    def imports(self, module: Module) -> list[Import]:
        """Every import of a module: statements, and literal names given to import functions."""
        return list(self._walk(module, module.tree, delayed=False, typing=False))

    def own(self, module: Module) -> Iterator[tuple[Import, str]]:
        """Imports of this package, each with the dotted name inside it."""
        for result in self.imports(module):
            head, _, rest = result.target.partition(".")
            if head == self.package:
                yield result, rest

    def _walk(self, module: Module, node: ast.AST, *, delayed: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(a.name, child.lineno, delayed, typing) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = self._base(module, child)
                yield from (Import(self._resolve(base, a.name), child.lineno, delayed, typing) for a in child.names)
            elif isinstance(child, ast.Call) and (name := _imported_by_call(child)):
                yield Import(name, child.lineno, delayed=True, typing=typing)
            if isinstance(child, ast.If) and _is_type_checking(child.test):
                for part, flag in ((child.body, True), (child.orelse, typing)):
                    yield from self._walk(module, ast.Module(part, []), delayed=delayed, typing=flag)
            else:
                inside = delayed or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._walk(module, child, delayed=inside, typing=typing)

    def _base(self, module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = [self.package, *filter(None, module.name.split("."))]
        parts = parts[: len(parts) - node.level + (1 if module.is_folder else 0)]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def _resolve(self, base: str, name: str) -> str:
        """``from base import name`` is an import of the module ``base.name`` where there is one, else of ``base``."""
        inside = f"{base}.{name}".partition(f"{self.package}.")[2]
        return f"{base}.{name}" if base.partition(".")[0] == self.package and inside in self.modules else base


def _table_values(tree: ast.Module) -> Iterator[str]:
    for table in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
        for value in table.values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and ":" in value.value:
                yield value.value


def _imported_by_call(node: ast.Call) -> str | None:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    if called in ("import_module", "__import__", "require_package") and isinstance(first, ast.Constant):
        return str(first.value)
    return None


def _is_type_checking(test: ast.expr) -> bool:
    return (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")) == "TYPE_CHECKING"


def every_module_has_a_floor(house: House) -> list[str]:
    options = (
        "give it a line in FLOORS in tests/house.py (DESIGN §3 says which floor), or put it into a room that has one"
    )
    return [
        f"{m.name} ({m.path.name}) is on no floor: {options}." for m in house.modules.values() if house.floor(m) is None
    ]


def imports_go_down(house: House) -> list[str]:
    return [problem for m in house.modules.values() for problem in dict.fromkeys(_upward(house, m))]


def _upward(house: House, module: Module) -> Iterator[str]:
    own_values = house.floor(module)
    for result, name in house.own(module) if own_values is not None else ():
        target = house.modules.get(name)
        if target is None:
            yield f"{module.at(result.line)} imports {result.target}, which does not exist."
            continue
        below = house.floor(target)
        if below is None or below < own_values or module.name == "" or (name == "" and module.room in SPEAKERS):
            continue
        where = f"{module.at(result.line)} (floor {own_values}) imports {name or 'the door'} (floor {below})"
        if name == "" or below > own_values:
            yield f"{where}: imports only go down. Move what both need to a lower floor, or hand it in as an argument."
        elif not result.typing and not _level_allowed(house, module, target):
            yield (
                f"{where}: rooms on one floor do not import each other (SAME_FLOOR has the exceptions), and a member "
                "of a family imports its base.py and helper files, no other member."
            )


def _level_allowed(house: House, module: Module, target: Module) -> bool:
    if house.floor(module) == 0:
        return True
    if module.room == target.room:
        return module.name not in house.members or not (target.name in house.members or target.is_folder)
    return (module.room, target.room) in house.same_floor


def no_circles(house: House) -> list[str]:
    """Only imports that run when a module does: not those for type checkers, nor the registry's and the door's."""
    edges = {
        m.name: sorted({n for f, n in house.own(m) if not f.typing and n in house.modules and n != m.name})
        for m in house.modules.values()
        if m.name not in DELAYED_ALLOWED
    }
    state: dict[str, int] = {}
    circles: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        state[name] = 1
        for target in edges.get(name, []):
            if state.get(target) == 1:
                circle = [*trail[trail.index(target) :], target]
                circles.append("imports form a circle: " + " → ".join(circle))
            elif target not in state:
                visit(target, (*trail, target))
        state[name] = 2

    for name in edges:
        if name not in state:
            visit(name, (name,))
    return circles


def own_imports_stand_at_the_top(house: House) -> list[str]:
    return [
        f"{m.at(result.line)} imports {result.target} inside a function: only _base/registry.py and the door may."
        for m in house.modules.values()
        if m.name not in DELAYED_ALLOWED
        for result, _ in house.own(m)
        if result.delayed and not result.typing
    ]


def low_floors_are_light(house: House) -> list[str]:
    problems = []
    for m in house.modules.values():
        floor = house.floor(m)
        if floor is None or floor > LIGHT:
            continue
        problems += [
            f"{m.at(result.line)} (floor {floor}) imports {result.target}: floors 0–{LIGHT} have no torch."
            for result in house.imports(m)
            if not result.typing and result.target.partition(".")[0] in HEAVY
        ]
    return problems


def files_are_short(house: House) -> list[str]:
    problems = []
    for m in house.modules.values():
        lines = m.text.count("\n")
        if lines > HARD_STOP or (lines > MOST_LINES and m.name not in house.long):
            problems.append(
                f"{m.name or '__init__'} has {lines} lines: split it (at most {MOST_LINES}, hard stop {HARD_STOP})."
            )
    return problems


def nothing_prints(house: House) -> list[str]:
    return [
        f"{m.at(node.lineno)} prints: report through headstart._base.progress.note instead."
        for m in house.modules.values()
        if m.room not in SPEAKERS
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]


def few_positional_parameters(house: House) -> list[str]:
    problems = []
    for m in house.modules.values():
        for node in ast.walk(m.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = [a.arg for a in [*node.args.posonlyargs, *node.args.args]]
                count = len(names) - (names[:1] in (["self"], ["cls"]))
                if count > MOST_PARAMETERS:
                    options = f"keep {MOST_PARAMETERS} and make the rest keyword-only"
                    problems.append(f"{m.at(node.lineno)} {node.name} has {count} positional parameters: {options}.")
    return problems


def names_say_something(house: House) -> list[str]:
    return [
        f"{m.name} says nothing by its name: call it after what it holds."
        for m in house.modules.values()
        if m.name.rpartition(".")[2].lstrip("_") in BANNED_NAMES
    ]


def public_names_have_docstrings(house: House) -> list[str]:
    problems = []
    for m in house.modules.values():
        if not ast.get_docstring(m.tree):
            problems.append(f"{m.name or '__init__'} has no docstring.")
        if not m.private:
            problems += [f"{m.at(node.lineno)} {node.name} has no docstring." for node in _undocumented(m.tree)]
    return problems


def _undocumented(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    for owner in [node for node in public if isinstance(node, ast.ClassDef)]:
        public += [node for node in owner.body if isinstance(node, kinds) and not node.name.startswith("_")]
    for node in public:
        marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
        told_elsewhere = marks & {"overload", "setter", "override"} or node.name == "forward"  # torch says what it is
        if not ast.get_docstring(node) and not told_elsewhere:
            yield node


def classes_are_narrow(house: House) -> list[str]:
    problems = []
    for m in house.modules.values():
        for node in ast.walk(m.tree):
            if isinstance(node, ast.ClassDef):
                inner = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
                marks = {n.name: " ".join(map(ast.unparse, n.decorator_list)) for n in inner}
                verbs = [n for n, mark in marks.items() if not n.startswith("_") and "property" not in mark]
                if len(verbs) > MOST_METHODS:
                    problems.append(
                        f"{m.at(node.lineno)} {node.name} has {len(verbs)} public methods (≤ {MOST_METHODS})."
                    )
    return problems


def functions_are_short(house: House) -> list[str]:
    """Lines from ``def`` to the end, without the docstring: the ninth decile, with the longest named."""
    lengths = []
    for m in house.modules.values():
        for node in ast.walk(m.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[0]
                says = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
                lengths.append((node.end_lineno - node.lineno + 1 - says, f"{m.at(node.lineno)} {node.name}"))
    lengths.sort()
    if not lengths or lengths[int(0.9 * (len(lengths) - 1))][0] <= P90_LINES:
        return []
    longest = ", ".join(f"{name} {n}" for n, name in lengths[-5:])
    return [f"one function in ten is longer than {P90_LINES} lines; the longest: {longest}."]


def tables_name_what_exists(house: House) -> list[str]:
    """Every ``"package.module:attribute"`` (tables of families, the door's): the file is there and has the name."""
    problems = []
    for m in house.modules.values():
        for node in ast.walk(m.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                module, colon, attribute = node.value.partition(":")
                if colon and module.startswith(f"{house.package}.") and attribute.isidentifier():
                    target = house.modules.get(module.partition(".")[2])
                    if target is None or attribute not in _defined(target.tree):
                        problems.append(f"{m.at(node.lineno)} names {node.value!r}, which does not exist.")
    return problems


def every_file_is_tested(house: House) -> list[str]:
    """A test names something that it defines, or what a family's table calls that; or it is imported by a file
    of its own folder of which this is true."""
    called: dict[str, set[str]] = {}
    for m in house.modules.values():
        for table in (node for node in ast.walk(m.tree) if isinstance(node, ast.Dict)):
            for key, value in zip(table.keys, table.values):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    called.setdefault(str(value.value).partition(":")[0], set()).add(str(key.value))
    reference = {}
    for m in house.modules.values():
        own_values = _defined(
            ast.Module([n for n in m.tree.body if not isinstance(n, (ast.Import, ast.ImportFrom))], [])
        )
        if own_values - {"__all__"}:
            reference[m.name] = own_values | called.get(f"{house.package}.{m.name}", set())
    reached = [name for name, names in reference.items() if names & house.tested]
    for name in reached:
        folder = name.rpartition(".")[0]
        inside = {target for _, target in house.own(house.modules[name]) if target.rpartition(".")[0] == folder}
        reached += sorted(inside.difference(reached))
    return [
        f"{name} is in no test, by none of its names: {', '.join(sorted(names)[:5])}. Test it."
        for name, names in reference.items()
        if name not in reached
    ]


def _defined(tree: ast.Module) -> set[str]:
    names = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or a.name for a in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


DIALECT: dict[str, str] = {
    **dict.fromkeys(["found", "made", "said", "told", "there"], "say what it is: result, rows, path, text"),
    **dict.fromkeys(["kept", "held"], "say what it is: mask, index, rows, held_out"),
    **dict.fromkeys(["given", "known", "wanted", "asked"], "say what it is: options, classes, requested, expected"),
    **dict.fromkeys(["one", "ones", "some", "many", "few", "most"], "name the item, or count it: item, n_rows, limit"),
    **dict.fromkeys(["how", "place", "own", "away", "whole"], "say what it is: format, key, full, centered"),
    **dict.fromkeys(["bend", "doubt", "mass", "pull", "pulled", "slope"], "curvature, smoothing, weight, gradient"),
}
ALLOWED_NAMES: dict[tuple[str, str], str] = {
    ("result.proof", "most"): "a field of saved proofs: labels saved, least and most"
}


def names_are_the_fields(house: House) -> list[str]:
    """No variable, parameter, field or function is called by a word that hides what it is."""
    return [
        f"{m.at(line)} binds {name!r}, a word that hides what it is: {DIALECT[name.lstrip('_')]}."
        for m in house.modules.values()
        for name, line in _bound(m.tree)
        if name.lstrip("_") in DIALECT and (m.name, name) not in ALLOWED_NAMES
    ]


def _bound(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def class_names_are_unique(house: House) -> list[str]:
    homes: dict[str, list[str]] = {}
    for m in house.modules.values():
        for node in m.tree.body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(m.name)
    return [
        f"class {name} is defined in {' and '.join(where)}: a reader who searches for it must find one thing."
        for name, where in homes.items()
        if len(where) > 1
    ]


def private_files_stay_inside(house: House) -> list[str]:
    """``_x.py`` is imported by files of its own folder only; the folder ``_base`` is the floor under all."""
    problems = []
    for m in house.modules.values():
        for result, name in house.own(m):
            folder, _, last = name.rpartition(".")
            inside = m.name if m.is_folder else m.name.rpartition(".")[0]
            if last.startswith("_") and folder and inside != folder and not inside.startswith(f"{folder}."):
                problems.append(
                    f"{m.at(result.line)} imports {name}, which is private to {folder}: call the file without _, "
                    "or import what the folder gives."
                )
    return problems


def folders_are_not_crowded(house: House) -> list[str]:
    folders: dict[str, int] = {}
    for m in house.modules.values():
        folder = m.path.parent.relative_to(house.source / house.package).as_posix()
        folders[folder] = folders.get(folder, 0) + 1
    return [
        f"{folder} has {count} files (≤ {MOST_FILES}), more than a person can hold in mind: make a folder inside it."
        for folder, count in folders.items()
        if count > MOST_FILES
    ]


RULES = (
    every_module_has_a_floor,
    imports_go_down,
    no_circles,
    own_imports_stand_at_the_top,
    low_floors_are_light,
    files_are_short,
    nothing_prints,
    few_positional_parameters,
    names_say_something,
    names_are_the_fields,
    class_names_are_unique,
    private_files_stay_inside,
    folders_are_not_crowded,
    public_names_have_docstrings,
    classes_are_narrow,
    functions_are_short,
    tables_name_what_exists,
    every_file_is_tested,
)


def on_floors(house: House, *floors: int) -> list[Module]:
    """The modules of some floors, lowest first."""
    result = [(house.floor(m), m.name, m) for m in house.modules.values() if house.floor(m) in floors]
    return [m for _, _, m in sorted(result, key=lambda entry: entry[:2])]


if __name__ == "__main__":
    for listed in on_floors(House(), *map(int, sys.argv[1:])):
        print(listed.path)
