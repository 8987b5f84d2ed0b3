# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and validating vm.yaml: all problems at once, each at its place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from sysqcache.base.errors import ConfigError
from sysqcache.spec import schema, vmyaml
from sysqcache.spec.schema import VmFields

CONFIGS = Path(__file__).parents[2] / "configs"
DOCS = Path(__file__).parents[2] / "docs"


def test_default_yaml_says_what_vcpus_share() -> None:
    """As docs/choosing.md does: blocks stay, but for those with atomic accesses."""
    comment = (CONFIGS / "default.yaml").read_text().partition("\nvcpus:")[0].rpartition("\n\n")[2]
    assert "share all code but that with" in comment
    assert "atomic accesses" in comment
    row = next(line for line in (DOCS / "choosing.md").read_text().split("\n") if "vCPUs" in line)
    assert "blocks stay, but for those with atomic accesses" in row


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """All problems of a document, with ``vm.yaml`` for its path."""
    file = tmp_path / "vm.yaml"
    file.write_text(text)
    checked = vmyaml.check(vmyaml.read(file, overrides))
    return [str(problem).replace(str(file), "vm.yaml") for problem in checked.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vcpus: two", "vm.yaml:1: vcpus: expected a valid integer; found 'two'"),
        ("vcpus: 0", "vm.yaml:1: vcpus: expected greater than or equal to 1; found 0"),
        ("vcpus: true", "vm.yaml:1: vcpus: expected a valid integer; found True"),
        ("\nmemory: 1G", "vm.yaml:2: memory: expected a size such as 1GiB or 512MiB; found '1G'"),
        ("memory: 4096", "vm.yaml:1: memory: expected a size such as 1GiB or 512MiB; found 4096"),
        (
            "arch: arm64",
            "vm.yaml:1: arch: expected 'x86_64', 'aarch64' or 'riscv64'; found 'arm64'",
        ),
        ("memroy: 1GiB", "vm.yaml:1: memroy: unknown key; did you mean 'memory'?"),
        (
            "cache: {xyz: 1}",
            "vm.yaml:1: cache.xyz: unknown key; known are mode, journal_max",
        ),
        (
            "disks:\n  - file: a\n    mode: x",
            "vm.yaml:3: disks.0.mode: expected 'ephemeral', 'persistent' or 'read-only'; found 'x'",
        ),
        ("disks:\n  - fil: a", "vm.yaml:2: disks.0.fil: unknown key; did you mean 'file'?"),
        ("disks: disk.img", "vm.yaml:1: disks: expected a list; found 'disk.img'"),
        ("network: none", "vm.yaml:1: network: expected a section with keys; found 'none'"),
        (
            "ready:\n  timeout: 5",
            "vm.yaml:2: ready.timeout: expected a time such as 120s, 2min or 500ms; found 5",
        ),
        (
            "network:\n  forwards:\n    - {host: 70000, guest: 1}",
            "vm.yaml:3: network.forwards.0.host: expected less than or equal to 65535; found 70000",
        ),
        ('reboot: "no"', "vm.yaml:1: reboot: expected a valid boolean; found 'no'"),
        (
            "name: a/b",
            "vm.yaml:1: name: expected letters, digits, '.', '_' and '-', at most 63; found 'a/b'",
        ),
    ],
)
def test_one_problem(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problems(tmp_path, text)


def test_wrong_regular_expression(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, 'ready: {pattern: "("}')
    assert problem.startswith("vm.yaml:1: ready.pattern: not a regular expression: ")


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = "nmae: x\nmemory: 1G\nvcpus: two\nready:\n  timeout: 5\n  patern: x\n"
    found = problems(tmp_path, text, "cache.mode=of")
    assert [p.split(": ")[0] for p in sorted(found)] == [
        "--set cache.mode=of",
        "vm.yaml:1",
        "vm.yaml:2",
        "vm.yaml:3",
        "vm.yaml:5",
        "vm.yaml:6",
    ]


def test_valid_fields_are_kept_beside_wrong_ones(tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text("memory: 2GiB\nvcpus: two\n")
    checked = vmyaml.check(vmyaml.read(file))
    assert checked.fields.memory == 2 << 30
    assert checked.bad == {"vcpus"}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [1", 1), ("name: x\nname: y\n", 2), ("a: b: c", 1), ("\n\t- x", 2)],
)
def test_broken_yaml_has_its_line(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        vmyaml.read(file)
    assert caught.value.detail.startswith(f"{file}:{line}: ")


@pytest.mark.parametrize("text", ["- a\n- b\n", "hello"])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="1 problem"):
        vmyaml.read(file)


def test_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == []


def test_missing_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        vmyaml.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        vmyaml.read(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("memory=2GiB", "memory", 2 << 30),
        ("cache.mode=off", "cache.mode", "off"),
        ("ready.timeout=2min", "ready.timeout", 120.0),
        ("disks.0.mode=read-only", "disks.0.mode", "read-only"),
        ("reboot=false", "reboot", False),
        ("cmdline=a=b c", "cmdline", "a=b c"),
        ('qemu_args=["-d", "help"]', "qemu_args", ("-d", "help")),
    ],
)
def test_override(tmp_path: Path, override: str, path: str, value: object) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text("disks:\n  - file: x\n")
    checked = vmyaml.check(vmyaml.read(file, [override]))
    assert checked.problems == ()
    found: object = checked.fields
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("memory", "expected key=value"),
        ("=1", "expected key=value"),
        ("disks.3.mode=x", "nothing to set"),
        ("disks.7=x", "the list has 1 items"),
        ("memory.x=1", "holds no fields"),
    ],
)
def test_impossible_override(tmp_path: Path, override: str, text: str) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text("memory: 1GiB\ndisks:\n  - file: x\n")
    with pytest.raises(ConfigError) as caught:
        vmyaml.read(file, [override])
    assert caught.value.detail.startswith(f"--set {override}: ")
    assert text in caught.value.detail


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GiB", 1 << 30), ("512 MiB", 1 << 29), ("1.5GiB", 3 << 29), ("4KiB", 4096)],
)
def test_size(text: str, size: int) -> None:
    assert schema.parse_size(text) == size


def test_default_yaml_equals_the_defaults() -> None:
    checked = vmyaml.check(vmyaml.read(CONFIGS / "default.yaml"))
    assert checked.problems == ()
    assert checked.fields == VmFields()


def test_default_yaml_shows_every_field() -> None:
    text = (CONFIGS / "default.yaml").read_text()
    for name in field_names():
        assert re.search(rf"^[# -]*{name}:", text, re.MULTILINE), name


def test_commented_examples_are_valid(tmp_path: Path) -> None:
    lines = (CONFIGS / "default.yaml").read_text().splitlines()
    start = lines.index("# disks:")
    example = "\n".join(line.removeprefix("# ") for line in lines[start : start + 4])
    assert problems(tmp_path, example) == []


def test_reference_mentions_every_field() -> None:
    text = (DOCS / "vm-yaml.md").read_text()
    for name in field_names():
        assert f"`{name}`" in text, name


def test_committed_schema_is_current() -> None:
    committed = json.loads((CONFIGS / "vm.schema.json").read_text())
    assert committed == json.loads(json.dumps(schema.json_schema(), default=str))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda f: f.name)
def test_configs_are_valid(file: Path) -> None:
    assert vmyaml.check(vmyaml.read(file)).problems == ()


def field_names() -> set[str]:
    """The names of all fields of all sections."""
    names: set[str] = set()
    for definition in [schema.json_schema(), *schema.json_schema()["$defs"].values()]:
        names |= set(definition.get("properties", {}))
    return names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]", ":1: nested deeper than 32 levels"),
        ("a: &a {<<: *a}", ":1: nested deeper than 32 levels"),
        ("x: " + "[" * 30_000, ":1: nested deeper than 32 levels"),
        ("a: [[x]]\n" * 20_000, ": longer than 32 Ki characters"),
        ("x: [" + "1," * 3000 + "]", ":1: more than 2,000 values, aliases counted"),
        ("a: !!python/none x", ":1: the tag tag:yaml.org,2002:python/none means nothing here"),
        ("? [a]\n: b", ":1: a key has to be a word"),
        ("\n<<: 1", ":2: << takes a section, or a list of them"),
        ('x: "\\ud800"', ":1: half a character, as no text has it"),
        ("a: \0", ":1: broken YAML: unacceptable character"),
    ],
)
def test_text_that_no_vm_yaml_has(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        vmyaml.read(file)
    assert expected in caught.value.detail


def test_aliases_that_unfold_to_millions(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 25))]
    file = tmp_path / "vm.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        vmyaml.read(file)
    assert "more than 2,000 values" in caught.value.detail


def test_merges_have_values_and_lines(tmp_path: Path) -> None:
    text = "disks:\n- &d {file: a, mode: x}\n- <<: *d\n  file: b\n- {file: c, <<: [*d, {y: 1}]}\n"
    assert sorted(problems(tmp_path, text)) == [
        *(
            f"vm.yaml:2: disks.{n}.mode: expected 'ephemeral', 'persistent' or 'read-only'; "
            "found 'x'"
            for n in range(3)
        ),
        "vm.yaml:5: disks.2.y: unknown key; known are file, format, mode",
    ]
    (tmp_path / "good.yaml").write_text(text.replace("mode: x", "mode: read-only"), "utf-8")
    disks = vmyaml.read(tmp_path / "good.yaml").data["disks"]
    assert [disk["file"] for disk in disks] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory: " + "9" * 5000, "memory: expected a size such as 1GiB or 512MiB; found '999"),
        ("vcpus: 0x" + "f" * 9000, "vcpus: expected a valid integer; found '0xfff"),
        (f"memory: {'9' * 400}TiB", "memory: expected a size of at most 1,048,576 TiB; found"),
        (
            f"ready: {{timeout: {'9' * 400}h}}",
            "ready.timeout: expected a time of at most",
        ),
        ("memory: \u0663GiB", "memory: expected a size such as 1GiB"),
        ("ready: {pattern: 'a{99999999999}'}", "ready.pattern: not a regular expression"),
        ('cpu: "max\\0"', "cpu: expected text without a NUL"),
        ('qemu_args: ["a\\0b"]', "qemu_args.0: expected text without a NUL"),
        ("network: {forwards: [{host: 1, guest: 1, address: '::1'}]}", "an IPv4 address such as"),
        ("network: {forwards: [{host: 1, guest: 1, address: localhost}]}", "an IPv4 address"),
        (
            "network: {forwards: [{host: 1, guest: 1, address: '127.0.0.1,hostfwd=tcp::2-:2'}]}",
            "network.forwards.0.address: expected an IPv4 address such as 127.0.0.1 or 0.0.0.0",
        ),
    ],
)
def test_values_beyond_all_bounds(tmp_path: Path, text: str, expected: str) -> None:
    [problem] = problems(tmp_path, text)
    assert problem.startswith("vm.yaml:1: ")
    assert expected in problem


@pytest.mark.parametrize("key", ["disks.\u00b2.mode", "disks.-1.mode", f"disks.{'9' * 5000}.mode"])
def test_no_index_of_a_list(tmp_path: Path, key: str) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text("disks: [{file: x}]")
    with pytest.raises(ConfigError) as caught:
        vmyaml.read(file, [f"{key}=raw"])
    assert "there is nothing to set" in caught.value.detail


def test_dates_and_yes_are_words(tmp_path: Path) -> None:
    assert problems(tmp_path, "name: 2001-01-01\ncmdline: yes\nkernel: k") == []


def test_a_pipe_is_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"name: x\n")
    os.close(writer)
    try:
        assert vmyaml.read(Path(f"/dev/fd/{reader}")).data == {"name": "x"}
    finally:
        os.close(reader)
    with pytest.raises(ConfigError, match="1 problem"):
        vmyaml.read(Path("/dev/zero"))
