"""The house has floors: which folder may import which. The table is the whole truth; the test reads the imports.

And its rooms are no halls: a file of more than 300 lines says in its first lines why it is one.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: folder or module -> what it may import, besides itself and ``saddlescope``; within its package where no other is named. The
#: name of a package alone stands for the modules at its top, such as the commands.
FLOORS = {
    "analysis/records": "",
    "analysis/krylov": "records",
    "analysis/samples": "records",
    "analysis/hessian": "records krylov samples",
    "analysis/measures": "records krylov samples hessian",
    "analysis/monitor": "records samples hessian measures",
    "analysis/checkpoints/formats": "samples",
    "analysis/checkpoints": "records samples hessian analysis/checkpoints/formats",
    "analysis/studies": "records krylov samples hessian measures checkpoints",
    "analysis/augmentation": "records krylov samples hessian checkpoints",
    "analysis/bench": "records krylov samples hessian measures checkpoints",
    "analysis/bench/scripts": "",
    "analysis": "records checkpoints studies augmentation bench",
    "training/data": "files",
    "training/networks": "",
    "training/optimizers": "class_counts",
    "training/losses": "class_counts",
    "training/runs": "files losses data networks optimizers",
    "training": "runs",
    "figures/drawing": "analysis/records",
    "figures/plots": "analysis/records drawing",
    "figures": "analysis/records drawing plots",
    "reports/tables": "analysis/records",
    "reports/literature": "analysis/records tables",
    "reports/page": "analysis/records tables literature",
    "reports/check": "analysis/records",
    "reports": "analysis/records page check",
}
FLOORS = {
    name: [below if "/" in below else f"{name.split('/')[0]}/{below}" for below in names.split()]
    for name, names in FLOORS.items()
}
#: Folders whose modules must be importable where torch is not installed, from an import at the top of a module.
TORCH_FREE = ("analysis/records", "figures", "reports")
PACKAGES = ("training", "analysis", "figures", "reports")
#: lines of a file that owes no reason
LONGEST = 300


def modules(root=ROOT):
    """Path without suffix, relative to the root -> file, of every module of the four packages."""
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }


def imports(name, file, known):
    """Modules of the house that a module imports, wherever the import stands."""
    folder = name.split("/")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("saddlescope.")]
        elif not isinstance(node, ast.ImportFrom):
            continue
        elif node.level:
            base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
            found = [[*base, alias.name] for alias in node.names]
        elif (node.module or "").startswith("saddlescope."):
            found = [[*node.module.split(".")[1:], alias.name] for alias in node.names]
        else:
            continue
        for parts in found:
            for length in (len(parts), len(parts) - 1):
                if "/".join(parts[:length]) in known:
                    yield "/".join(parts[:length])
                    break


def floor(name):
    """The floor that a module is on: itself where the table names it, else its folder."""
    return name if name in FLOORS else name.rpartition("/")[0]


def broken(known):
    """A sentence for every import that the table does not allow."""
    for name, file in sorted(known.items()):
        here = floor(name)
        for other in imports(name, file, known):
            there = floor(other)
            allowed = FLOORS.get(here, [])
            if there != here and there not in allowed and other not in allowed:
                yield f"{name} may not import {other}: {here} imports {', '.join(allowed) or 'nothing'}, and not {there}"


def test_every_import_keeps_to_its_floor():
    assert list(broken(modules())) == []


def test_a_wrong_import_is_named_with_the_floor_that_it_breaks(tmp_path):
    for name, text in {
        "analysis/krylov/lanczos.py": "def f():\n    from ..hessian.operator import X\n",
        "analysis/hessian/operator.py": "from ..krylov import lanczos\n",
        "figures/plots/lines.py": "import saddlescope.reports.tables.words\n",
        "reports/tables/words.py": "from saddlescope.analysis.krylov.lanczos import f\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    sentences = list(broken(modules(tmp_path)))
    assert [sentence.split(":")[0] for sentence in sentences] == [
        "analysis/krylov/lanczos may not import analysis/hessian/operator",
        "figures/plots/lines may not import reports/tables/words",
        "reports/tables/words may not import analysis/krylov/lanczos",
    ]
    assert "analysis/krylov imports analysis/records, and not analysis/hessian" in sentences[0]


def test_the_table_has_no_circle_and_no_folder_that_is_not_there():
    def below(name, path=()):
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        for other in FLOORS.get(name, []):
            below(other, (*path, name))

    for name in FLOORS:
        below(name)
        assert (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file(), name
    folders = {name.rpartition("/")[0] for name in modules() if not name.endswith("__init__")}
    assert folders <= set(FLOORS), "a folder without a floor"


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    arrows = {name: {other for other in imports(name, file, known) if other != name} for name, file in known.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for other in sorted(arrows[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in sorted(known):
        visit(name)


def test_what_figures_and_reports_read_imports_no_torch_at_the_top():
    for name, file in modules().items():
        if not name.startswith(TORCH_FREE):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [one for one in names if one.split(".")[0] in ("torch", "safetensors")], f"{name} imports torch"


def halls(root=ROOT):
    """A sentence for every file above 300 lines that does not say why in its docstring: "Above 300 lines: ..."."""
    files = [root / "saddlescope.py"] if (root / "saddlescope.py").exists() else []
    for file in files + [file for folder in (*PACKAGES, "tests") for file in sorted((root / folder).rglob("*.py"))]:
        text = file.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > LONGEST and f"Above {LONGEST} lines: " not in (ast.get_docstring(ast.parse(text)) or ""):
            why = f"say in its docstring why not (Above {LONGEST} lines: ...)"
            yield f"{file.relative_to(root).as_posix()} has {lines} lines: split it by its ideas, or {why}"


def test_a_file_is_one_idea_or_says_why_it_is_long():
    assert list(halls()) == []


def test_a_long_file_is_named(tmp_path):
    (tmp_path / "reports").mkdir()
    body = "x = 1\n" * LONGEST
    for name, text in {
        "long": body + "y = 2\n",
        "just": body,
        "why": f'"""One.\n\nAbove {LONGEST} lines: one.\n"""\n{body}',
    }.items():
        (tmp_path / "reports" / f"{name}.py").write_text(text)
    (sentence,) = halls(tmp_path)
    assert sentence.startswith("reports/long.py has 301 lines: split it")
