"""Streams and fingerprints."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from pathlib import Path

import pytest
import torch

import lossbench
from lossbench.data import DATA
from lossbench.fingerprints import PURPOSES, code, source_sha, stream, tensors_sha
from lossbench.fingerprints.code import _collect
from lossbench.losses import LOSSES
from lossbench.models import MODELS, initialised, rescaled


def test_streams_of_different_purposes_and_seeds_differ():
    draws = {
        (seed, purpose): torch.rand(4, generator=stream(seed, purpose)).tolist()
        for seed, purpose in itertools.product(range(5), PURPOSES)
    }
    assert len({tuple(values) for values in draws.values()}) == len(draws)


def test_no_random_number_is_drawn_for_a_purpose_that_is_not_listed():
    sources = Path(lossbench.__file__).parent.rglob("*.py")
    drawn = re.compile(r'stream\(\w+, "(\w+)"\)')
    used = {name for path in sources for name in drawn.findall(path.read_text())}
    assert used == {*PURPOSES}


def test_building_a_model_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    initialised(lambda: MODELS["mlp"].fn(4, 2), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_initialisation_depends_on_the_seed_only():
    def sha(seed):
        torch.rand(3)  # disturbs the global generator
        model = initialised(lambda: MODELS["mlp"].fn(4, 2), seed=seed)
        return tensors_sha(model.state_dict())

    assert sha(1) == sha(1) != sha(2)


def test_output_scale_scales_the_last_layer_only():
    plain, scaled = (
        rescaled(
            initialised(lambda: MODELS["mlp"].fn(4, 2), seed=1), output_scale=scale
        ).state_dict()
        for scale in (1.0, 0.0)
    )
    assert torch.equal(plain["0.weight"], scaled["0.weight"])
    assert plain["4.weight"].abs().sum() > 0
    assert scaled["4.weight"].abs().sum() == scaled["4.bias"].abs().sum() == 0


def test_a_fingerprint_notices_name_type_shape_and_one_bit():
    base = {"a": torch.arange(6.0).view(2, 3)}
    bit = {"a": base["a"].clone()}
    bit["a"][1, 2] = torch.nextafter(bit["a"][1, 2], torch.tensor(9.0))
    variants = [base, bit, {"b": base["a"]}, {"a": base["a"].view(3, 2)}, {"a": base["a"].double()}]
    assert len({tensors_sha(variant) for variant in variants}) == len(variants)


def test_source_sha_notices_an_edited_helper_and_constant_but_no_docstring(monkeypatch, tmp_path):
    def sha(text):
        path = tmp_path / f"m{sha.count}.py"
        sha.count += 1
        path.write_text(text)
        import importlib.util

        spec = importlib.util.spec_from_file_location("module_under_test", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return source_sha([module.scaled])

    sha.count = 0
    text = (
        "SCALE = 2.0\n"
        "def scaled(o, t):\n    return SCALE * helper(o, t)\n"
        "def helper(o, t):\n    '''Squared.'''\n    return (o - t) ** 2  # why\n"
    )
    same = text.replace("Squared.", "The squared error.").replace("# why", "# because")
    assert sha(text) == sha(same)
    assert sha(text) != sha(text.replace("** 2", "** 4"))
    assert sha(text) != sha(text.replace("SCALE = 2.0", "SCALE = 3.0"))


def test_every_loss_has_its_own_source_sha():
    names = {}
    for name, row in LOSSES.items():
        names.setdefault(source_sha([row.fn]), []).append(name)
    assert [alike for alike in names.values() if len(alike) > 1] == []


def test_source_sha_follows_caches_tables_and_methods(tmp_path, monkeypatch):
    text = (
        "import functools\n"
        "@functools.cache\ndef cached():\n    return 1\n"
        "class Layer:\n    def call(self):\n        return deep()\n"
        "def deep():\n    return 2\n"
        "TABLE = {'a': Layer, 'b': 3}\n"
        "def scaled():\n    return cached(), TABLE\n"
    )
    edits = [("", ""), ("return 1", "return 9"), ("return 2", "return 9"), ("'b': 3", "'b': 9")]
    shas = []
    for number, (old, new) in enumerate([*edits, ("", "")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "under_test.py").write_text(text.replace(old, new) if old else text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            patch.delitem(sys.modules, "under_test", raising=False)
            shas.append(source_sha([importlib.import_module("under_test").scaled]))
            patch.delitem(sys.modules, "under_test")
    assert shas[0] == shas[-1]
    assert len(set(shas)) == len(edits)


FILES = {
    "mine.py": """
import functools, types
import aux, aux as other
from pk import part
from pk.deep import low
class Config:
    def __init__(self, p): self.p = p
CONFIG, shape, SPACE = Config(2.0), functools.partial(pow, 2.0), types.SimpleNamespace(p=2.0)
def loss():
    import late
    return CONFIG.p, shape(1), SPACE.p, aux.f(), other.K, part.g(), low(), late.h()
""",
    "aux.py": "K = 1\ndef f():\n    return 2\n",
    "late.py": "def h():\n    return 3\n",
    "unused.py": "Z = 9\n",
    "pk/__init__.py": "",
    "pk/part.py": "def g():\n    return 4\n",
    "pk/deep.py": "from . import deeper\ndef low():\n    return deeper.LOW\n",
    "pk/deeper.py": "LOW = 5\n",
}
EDITS = {
    "an instance": ("mine.py", "Config(2.0)", "Config(1.0)"),
    "a partial": ("mine.py", "partial(pow, 2.0)", "partial(pow, 1.0)"),
    "a namespace": ("mine.py", "SimpleNamespace(p=2.0)", "SimpleNamespace(p=1.0)"),
    "a function of a module": ("aux.py", "return 2", "return 1"),
    "a constant of a module": ("aux.py", "K = 1", "K = 2"),
    "an import within the function": ("late.py", "return 3", "return 1"),
    "a module of a package": ("pk/part.py", "return 4", "return 1"),
    "what a module of a package imports": ("pk/deeper.py", "LOW = 5", "LOW = 1"),
}


def sha_of_files(folder, files, monkeypatch):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in ("mine", "aux", "late", "pk", "pk.part", "pk.deep", "pk.deeper"):
            patch.delitem(sys.modules, name, raising=False)
        code._files.cache_clear()
        sha = source_sha([importlib.import_module("mine").loss])
        code._files.cache_clear()
    return sha


@pytest.mark.parametrize(("file", "old", "new"), EDITS.values(), ids=EDITS)
def test_source_sha_of_somebodys_function_follows_all_files_of_theirs_that_it_imports(
    file, old, new, tmp_path, monkeypatch
):
    edited = FILES | {file: FILES[file].replace(old, new)}
    assert edited != FILES
    shas = [
        sha_of_files(tmp_path / str(place), files, monkeypatch)
        for place, files in enumerate((FILES, edited, FILES | {"unused.py": "Z = 8\n"}))
    ]
    assert shas[0] == shas[2] != shas[1]


def test_source_sha_follows_a_file_that_is_a_link_out_of_the_folder(tmp_path, monkeypatch):
    shas = []
    for place, text in enumerate((FILES["aux.py"], "K = 2\n")):
        (tmp_path / f"away{place}.py").write_text(text)
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "aux.py").symlink_to(tmp_path / f"away{place}.py")
        files = {"mine.py": "import aux\ndef loss():\n    return aux.K\n"}
        shas.append(sha_of_files(folder, files, monkeypatch))
    assert shas[0] != shas[1]


def test_source_sha_follows_a_file_that_cannot_be_parsed(tmp_path, monkeypatch):
    mine = (
        "try:\n    import aux\nexcept SyntaxError:\n    aux = None\ndef loss():\n    return aux\n"
    )
    shas = [
        sha_of_files(tmp_path / place, {"mine.py": mine, "aux.py": text}, monkeypatch)
        for place, text in (("a", "K =\n"), ("b", "K = (\n"))
    ]
    assert shas[0] != shas[1]


@pytest.mark.parametrize(("name", "part"), [("digits", "_loaded"), ("mlp", "ACTIVATIONS")])
def test_source_sha_of_our_own_rows_reaches_their_helpers(name, part):
    found = {}
    _collect((DATA | MODELS)[name].fn, found)
    assert any(key.endswith(part) for key in found)
