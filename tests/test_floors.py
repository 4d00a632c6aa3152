"""The house law holds, and each rule can fail. The law itself is in ``house.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import house
from house import House

REAL = House()


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_law(rule):
    problems = rule(REAL)
    assert not problems, "\n" + "\n".join(problems)


def test_low_floors_load_no_torch():
    names = [".".join(filter(None, ["headstart", m.name])) for m in house.on_floors(REAL, *range(house.LIGHT + 1))]
    code = (
        "import importlib, json, sys\n"
        f"heavy = {sorted(house.HEAVY)!r}\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    found = [h for h in heavy if h in sys.modules]\n"
        "    if found: print(json.dumps([name, found])); break\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout, "{} loads {}".format(*json.loads(done.stdout))


def test_long_files_are_still_there():
    """An exception that is no longer needed is taken out of the list."""
    needed = {m.name for m in REAL.modules.values() if m.text.count("\n") > house.MOST_LINES}
    assert set(house.LONG) <= needed
    assert all(house.LONG.values()), "each exception states its reason"


def test_exceptions_on_a_floor_are_used():
    rooms = {(m.room, name.partition(".")[0]) for m in REAL.modules.values() for _, name in REAL.own(m)}
    built = {pair for pair in house.SAME_FLOOR if {*pair} <= {m.room for m in REAL.modules.values()}}
    assert built <= rooms, f"not needed any more: {sorted(built - rooms)}"


# ---- every rule can fail -------------------------------------------------------------------------------------------

TOWN_FLOORS = {"ground": 0, "_store": 1, "hall": 1, "shop": 1, "crafts": 2, "office": 3, "cli": 8, "": 9}
GOOD = {
    "__init__.py": '"""The door."""\n\n\ndef __getattr__(name):\n    import town.hall\n\n    return town.hall\n',
    "ground.py": '"""Ground."""\n\n\ndef stand(a, b, c, d, *, e=1):\n    """Stand."""\n',
    "_store.py": '"""Store."""\nfrom town import ground\n',
    "hall.py": '"""Hall."""\nimport numpy\nfrom town.ground import stand\nfrom town._store import ground as g\n',
    "shop.py": '"""Shop."""\n',
    "crafts/__init__.py": '"""Crafts."""\nfrom town.crafts.base import CRAFTS\n',
    "crafts/base.py": '"""Base."""\nfrom town import hall\nCRAFTS = {"knit": "town.crafts.knit:knit"}\n',
    "crafts/_wool.py": '"""Wool."""\nfrom .base import hall\n',
    "crafts/knit.py": '"""Knit."""\nfrom . import base\nfrom town.crafts._wool import hall\nknit, purl = 1, 2\n',
    "crafts/weave.py": '"""Weave."""\n',
    "office/__init__.py": '"""Office."""\nfrom town.office.desk import sit\n',
    "office/desk.py": '"""Desk."""\nimport torch\nfrom town.crafts import base\nfrom .lamp import on as sit\n',
    "office/lamp.py": '"""Lamp."""\non = True\n',
    "cli.py": '"""Words."""\nfrom town import hall\nprint("hello")\n',
}


def town(folder: Path, changes: dict[str, str] | None = None) -> House:
    """The good town with some files changed or added."""
    files = {**GOOD, **{f"{name}.py": text for name, text in (changes or {}).items()}}
    for name, text in files.items():
        path = folder / "town" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / "test_town.py").write_text("__getattr__, stand, A, f, _f, x, CRAFTS, purl, on\n")
    pairs = {("shop", "hall"): "a reason", ("hall", "_store"): "a reason"}
    return House(
        folder, "town", folder / "tests", TOWN_FLOORS, frozenset({"crafts"}), same_floor=pairs,
        long={"shop": "a reason"},
    )  # fmt: skip


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_a_good_town_passes(rule, tmp_path):
    assert rule(town(tmp_path)) == []


DOC = '"""Doc."""\n'
METHODS = "".join(f'    def m{i}(self):\n        """M."""\n' for i in range(house.MOST_METHODS + 1))
WRONG = {
    "no floor": (house.every_module_has_a_floor, {"tower": DOC}, "tower"),
    "no floor, private": (house.every_module_has_a_floor, {"_cellar": DOC}, "FLOORS"),
    "up": (house.imports_go_down, {"ground": DOC + "from town.hall import stand\n"}, "imports only go down"),
    "up, plain import": (house.imports_go_down, {"hall": DOC + "import town.office.desk\n"}, "office.desk (floor 3)"),
    "up, in a function": (house.imports_go_down, {"hall": DOC + "def f():\n    import town.crafts\n"}, "crafts"),
    "up, relative": (house.imports_go_down, {"hall": DOC + "from .office import desk\n"}, "office.desk"),
    "up, relative, from a folder": (
        house.imports_go_down,
        {"crafts/knit": DOC + "from ..office import desk\n"},
        "desk",
    ),
    "up, from an __init__": (house.imports_go_down, {"crafts/__init__": DOC + "from ..office import desk\n"}, "desk"),
    "up, for types": (
        house.imports_go_down,
        {"hall": DOC + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import town.cli\n"},
        "cli (floor 8)",
    ),
    "up, in a class": (house.imports_go_down, {"hall": DOC + "class A:\n    from town import cli\n"}, "cli"),
    "up, by name": (house.imports_go_down, {"hall": DOC + "import_module('town.cli')\n"}, "cli"),
    "the door": (house.imports_go_down, {"office/lamp": DOC + "from town import nothing\n"}, "the door"),
    "the door, from a low floor": (house.imports_go_down, {"hall": DOC + "import town\n"}, "the door"),
    "missing": (house.imports_go_down, {"office/lamp": DOC + "import town.gone\n"}, "does not exist"),
    "neighbour": (
        house.imports_go_down,
        {"hall": DOC + "from town import shop\n"},
        "rooms on one floor do not import each other",
    ),
    "neighbour, the other way": (house.imports_go_down, {"_store": DOC + "from town import hall\n"}, "SAME_FLOOR"),
    "another member": (
        house.imports_go_down,
        {
            "crafts/base": DOC + "CRAFTS = {'knit': 'town.crafts.knit:purl', 'weave': 'town.crafts.weave:loom'}\n",
            "crafts/knit": DOC + "from town.crafts import weave\n",
        },
        "base.py",
    ),
    "own family's door": (house.imports_go_down, {"crafts/knit": DOC + "from town.crafts import CRAFTS\n"}, "base.py"),
    "circle of two": (
        house.no_circles,
        {"office/lamp": DOC + "from town.office import desk\n"},
        "office.desk → office.lamp → office.desk",
    ),
    "circle through a function": (house.no_circles, {"ground": DOC + "def f():\n    import town._store\n"}, "circle"),
    "delayed": (house.own_imports_stand_at_the_top, {"hall": DOC + "def f():\n    import town.ground\n"}, "hall:3"),
    "delayed, by name": (house.own_imports_stand_at_the_top, {"hall": DOC + "import_module('town.ground')\n"}, "hall"),
    "delayed, in a method": (
        house.own_imports_stand_at_the_top,
        {"office/desk": DOC + "class A:\n    async def f(self):\n        from . import lamp\n"},
        "office.desk:4",
    ),
    "torch": (house.low_floors_are_light, {"hall": DOC + "import torch.nn\n"}, "torch.nn"),
    "torch in a function": (
        house.low_floors_are_light,
        {"crafts/knit": DOC + "def f():\n    import torch\n"},
        "torch",
    ),
    "torch from": (house.low_floors_are_light, {"ground": DOC + "from torch import nn\n"}, "torch"),
    "timm by need": (house.low_floors_are_light, {"hall": DOC + "timm = require_package('timm', 'x')\n"}, "timm"),
    "long": (house.files_are_short, {"hall": DOC + "x = 1\n" * house.MOST_LINES}, "501 lines"),
    "too long for an exception": (house.files_are_short, {"shop": DOC + "x = 1\n" * house.HARD_STOP}, "801 lines"),
    "print": (house.nothing_prints, {"hall": DOC + "def f():\n    print('x')\n"}, "hall:3"),
    "write": (house.nothing_prints, {"hall": DOC + "import sys\nsys.stdout.write('x')\n"}, "hall:3"),
    "five": (house.few_positional_parameters, {"hall": DOC + "def f(a, b, c, d, e): ...\n"}, "5 positional"),
    "five, positional only": (house.few_positional_parameters, {"hall": DOC + "def f(a, b, /, c, d, e): ...\n"}, "5"),
    "five, method": (
        house.few_positional_parameters,
        {"hall": DOC + "class A:\n    def f(self, a, b, c, d, e=1): ...\n"},
        "f has 5",
    ),
    "utils": (house.names_say_something, {"office/utils": DOC}, "office.utils"),
    "private utils": (house.names_say_something, {"_utils": DOC}, "_utils"),
    "dialect, a variable": (
        house.names_are_the_fields,
        {"hall": DOC + "def f():\n    found = 1\n"},
        "hall:3 binds 'found'",
    ),
    "dialect, a parameter": (house.names_are_the_fields, {"hall": DOC + "def f(kept): ...\n"}, "binds 'kept'"),
    "dialect, private": (house.names_are_the_fields, {"hall": DOC + "def _told(): ...\n"}, "binds '_told'"),
    "dialect, a field": (house.names_are_the_fields, {"hall": DOC + "def f(self):\n    self.given = 1\n"}, "given"),
    "one class name, two things": (
        house.class_names_are_unique,
        {"hall": DOC + "class Table: ...\n", "shop": DOC + "class _Table: ...\n"},
        "class Table is defined in hall and shop",
    ),
    "another folder's private file": (
        house.private_files_stay_inside,
        {"office/desk": DOC + "from town.crafts._wool import hall\n"},
        "crafts._wool, which is private to crafts",
    ),
    "crowded": (
        house.folders_are_not_crowded,
        {f"office/chair{i}": DOC for i in range(house.MOST_FILES - 2)},
        f"office has {house.MOST_FILES + 1} files",
    ),
    "module without": (house.public_names_have_docstrings, {"_store": "x = 1\n"}, "_store has no docstring"),
    "function without": (house.public_names_have_docstrings, {"hall": DOC + "def f(): ...\n"}, "f has no"),
    "method without": (
        house.public_names_have_docstrings,
        {"hall": DOC + 'class A:\n    """A."""\n    def f(self): ...\n'},
        "hall:4 f",
    ),
    "class without": (house.public_names_have_docstrings, {"hall": DOC + "class A: ...\n"}, "A has no"),
    "wide": (house.classes_are_narrow, {"hall": DOC + 'class A:\n    """A."""\n' + METHODS}, "21 public methods"),
    "long functions": (house.functions_are_short, {"hall": DOC + "def f():\n" + "    x = 1\n" * 36}, "f 37"),
    "table, no module": (house.tables_name_what_exists, {"crafts/base": DOC + "T = 'town.crafts.sew:sew'\n"}, "sew"),
    "no test": (house.every_file_is_tested, {"shop": DOC + "def _sell(): ...\n"}, "shop is in no test"),
    "no test, a class": (house.every_file_is_tested, {"office/lamp": DOC + "class Bulb: ...\n"}, "Bulb"),
    "no test, private": (house.every_file_is_tested, {"_store": DOC + "def _keep(): ...\n", "hall": DOC}, "_store is"),
    "no test, a member": (
        house.every_file_is_tested,
        {"crafts/knit": DOC + "def knit(): ...\n", "crafts/base": DOC + "CRAFTS = {'wool': 'town.crafts.knit:knit'}\n"},
        "crafts.knit",
    ),
    "table, no name": (house.tables_name_what_exists, {"crafts/base": DOC + "T = 'town.crafts.knit:tie'\n"}, "tie"),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_each_rule_can_fail(case, tmp_path):
    rule, changes, expected = WRONG[case]
    wrong = town(tmp_path, changes)
    if rule is house.functions_are_short:  # one function in ten: the town has few
        wrong = town(tmp_path, {**changes, "shop": changes["hall"], "office/lamp": changes["hall"]})
    problems = rule(wrong)
    assert problems, "the rule saw nothing"
    assert expected in "\n".join(problems)


def test_every_rule_has_a_case_that_fails():
    assert {rule for rule, _, _ in WRONG.values()} == set(house.RULES)


FINE = {
    "level, for types": {
        "hall": DOC + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from town import shop\n"
    },
    "a stated exception": {"shop": DOC + "from town import hall\n"},
    "torch for types": {"hall": DOC + "import typing\nif typing.TYPE_CHECKING:\n    import torch\n"},
    "torch high up": {"office/lamp": DOC + "def _f():\n    import torch\n    print_it = 1\n"},
    "long with a reason": {"shop": DOC + "x = 1\n" * (house.HARD_STOP - 1)},
    "private without docstring": {"hall": DOC + "def _f(): ...\nclass _A:\n    def f(self): ...\n"},
    "keywords": {"hall": DOC + 'class A:\n    """A."""\n    def f(self, a, b, c, d, *, e):\n        """F."""\n'},
    "tested through who uses it": {
        "_store": DOC + "def _keep(): ...\n",
        "hall": DOC + 'from town import _store\n\n\ndef f():\n    """F."""\n',
    },
    "tested by its name in a table": {
        "crafts/weave": DOC + 'def _weave(): ...\n\n\ndef loom():\n    """L."""\n',
        "crafts/base": DOC + "CRAFTS = {'stand': 'town.crafts.weave:loom'}\n",
    },
    "private inside its folder": {"crafts/weave": DOC + "from town.crafts._wool import hall\n"},
    "third party by name": {
        "office/lamp": DOC + "def _f():\n    require_package('timm', 'x')\n    import_module(variable)\n"
    },
}


@pytest.mark.parametrize("case", FINE, ids=str)
def test_what_is_allowed_stays_allowed(case, tmp_path):
    fine = town(tmp_path, FINE[case])
    assert [problem for rule in house.RULES for problem in rule(fine)] == []


def test_else_of_type_checking_counts(tmp_path):
    text = DOC + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1\nelse:\n    import torch\n"
    assert house.low_floors_are_light(town(tmp_path, {"hall": text}))


def test_floors_can_be_listed(tmp_path):
    names = [m.name for m in house.on_floors(town(tmp_path), 0, 1)]
    assert names == ["ground", "_store", "hall", "shop"]
    done = subprocess.run([sys.executable, house.__file__, "0"], capture_output=True, text=True, check=True)
    assert any(line.endswith("errors.py") for line in done.stdout.splitlines())
    assert not any("sources" in line for line in done.stdout.splitlines())
