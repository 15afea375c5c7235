"""Flags before environment before TOML before defaults, and no mistake passed over."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from treadle._cli.options.config import ConfiguredCommand, Derived, Needed
from treadle._cli.options.values import Seconds, Trusted


@click.group(context_settings={"auto_envvar_prefix": "TREADLE"})
def group() -> None:
    """Stand above the command, as `treadle` does."""


@group.command(cls=ConfiguredCommand, name="serve")
@click.option("--threads", type=click.IntRange(1, 1000), default=1)
@click.option("--max-connections", type=int, default=1)
@click.option("--idle-timeout", type=Seconds(), default=1.0)
@click.option("--host", default="default")
def serve(threads: int, max_connections: int, idle_timeout: float, host: str) -> None:
    """Say what it was given."""
    click.echo(f"{threads} {max_connections} {idle_timeout} {host}")


@group.command(cls=ConfiguredCommand)
@click.option("--trust", type=Trusted(), multiple=True)
def trust(trust: tuple[tuple[str, ...], ...]) -> None:
    """Say what it was given, as often as it was."""
    click.echo(" ".join(name for names in trust for name in names))


group.add_command(click.Command("other"))


def invoke(*args: str, config: Path | str | None = None, **env: str) -> Result:
    options = [] if config is None else ["--config", str(config)]
    return CliRunner().invoke(group, ["serve", *args, *options], env=env)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "treadle.toml"
    path.write_text('[serve]\nthreads = 30\nmax-connections = 30\nidle-timeout = 3\nhost = "file"\n[other]\n')
    return path


def test_each_source_yields_to_the_one_before_it(config: Path) -> None:
    env = {"TREADLE_SERVE_THREADS": "20", "TREADLE_SERVE_MAX_CONNECTIONS": "20"}
    assert invoke().output == "1 1 1.0 default\n"
    assert invoke(config=config).output == "30 30 3.0 file\n"
    assert invoke(config=config, **env).output == "20 20 3.0 file\n"
    assert invoke("--threads", "10", config=config, **env).output == "10 20 3.0 file\n"


def test_the_file_itself_may_be_named_by_the_environment(config: Path) -> None:
    assert invoke(TREADLE_SERVE_CONFIG=str(config)).output == "30 30 3.0 file\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[serve]\nthread = 5", "[serve] has no key 'thread'; did you mean 'threads'?"),
        ("[serve]\nmax_connections = 5", "[serve] has no key 'max_connections'; did you mean 'max-connections'?"),
        ("[serve]\nconfig = 'x'", "[serve] has no key 'config'"),
        ("[serve]\nzzz = 5", "[serve] has no key 'zzz'; known: host, idle-timeout, max-connections, threads"),
        ("[server]\nthreads = 5", "unknown table [server]; did you mean 'serve'?"),
        ("serve = 5", "serve must be a table"),
        ("threads = 5", "'threads' stands in no table; write [serve] above it"),
        ("[serve]\nthreads = '5'", "[serve] threads = '5' is of the wrong type"),
        ("[serve]\nthreads = 5.5", "[serve] threads = 5.5 is of the wrong type"),
        ("[serve]\nthreads = true", "[serve] threads = True is of the wrong type"),
        ("[serve]\nthreads = 0", "[serve] threads: 0 is not in the range"),
        ("[serve]\nidle-timeout = nan", "[serve] idle-timeout: nan is not"),
        ("[serve]\nthreads 5", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_status_2_and_names_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    result = invoke(config=path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr
    assert str(path) in result.stderr


@pytest.mark.parametrize("value", ['["::1", "10.0.0.0/8,unix"]', '"::1,10.0.0.0/8,unix"'])
def test_what_may_be_given_several_times_is_a_list_in_the_file_or_a_single_value(tmp_path: Path, value: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(f"[trust]\ntrust = {value}\n")
    command = ["trust", "--config", str(path)]
    assert CliRunner().invoke(group, command).output == "::1 10.0.0.0/8 unix\n"
    assert CliRunner().invoke(group, command, env={"TREADLE_TRUST_TRUST": "::2,::3 ::4"}).output == "::2 ::3 ::4\n"
    assert CliRunner().invoke(group, [*command, "--trust", "::5", "--trust", "::6,::7"]).output == "::5 ::6 ::7\n"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ('["::1", 5]', "[trust] trust = 5 is of the wrong type; expected ADDRESS"),
        ('["::1", "proxy"]', "[trust] trust: 'proxy' is not an address"),
        ("true", "[trust] trust = True is of the wrong type"),
    ],
)
def test_each_value_of_a_list_in_the_file_is_checked(tmp_path: Path, value: str, complaint: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(f"[trust]\ntrust = {value}\n")
    result = CliRunner().invoke(group, ["trust", "--config", str(path)])
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_a_list_is_for_what_may_be_given_several_times_only(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[serve]\nhost = ["a", "b"]\n')
    assert "[serve] host = ['a', 'b'] is of the wrong type" in invoke(config=path).stderr


def test_a_flag_does_not_hide_a_mistake_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[serve]\nthreads = 0")
    assert invoke("--threads", "5", config=path).exit_code == 2


def test_a_missing_file_is_named_with_its_neighbour(config: Path) -> None:
    result = invoke(config=config.with_name("tredle.toml"))
    assert result.exit_code == 2
    assert "no such file" in result.stderr
    assert f"did you mean '{config}'?" in result.stderr


def test_what_cannot_be_read_is_status_2(tmp_path: Path) -> None:
    result = invoke(config=tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: cannot be read" in result.stderr
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    result = invoke(config=binary)
    assert result.exit_code == 2
    assert f"{binary}: not valid TOML" in result.stderr


def test_a_bad_value_from_the_environment_names_its_variable() -> None:
    result = invoke(TREADLE_SERVE_THREADS="many")
    assert result.exit_code == 2
    assert "TREADLE_SERVE_THREADS" in result.stderr
    result = invoke("--threads", "many")
    assert result.exit_code == 2
    assert "TREADLE_SERVE_THREADS" not in result.stderr


def names_of(text: str) -> list[str]:
    return re.findall(r"environment variable (\w+) is unknown", text)


def test_a_variable_that_no_option_has_is_named_with_the_nearest_and_sets_nothing() -> None:
    env = {
        "TREADLE_SERVE_THREAD": "5",
        "TREADLE_HOST": "x",
        "TREADLE_SERVE_ZZZZZZZZZZ": "",
        "TREADLES": "",
        "TREAD": "",
    }
    result = invoke(**env)
    assert (result.exit_code, result.stdout) == (0, "1 1 1.0 default\n")
    lines = result.stderr.splitlines()
    assert names_of(result.stderr) == ["TREADLE_HOST", "TREADLE_SERVE_THREAD", "TREADLE_SERVE_ZZZZZZZZZZ"]
    assert lines[0].endswith("; did you mean TREADLE_SERVE_HOST?")
    assert lines[1].endswith("; did you mean TREADLE_SERVE_THREADS?")
    assert lines[2].endswith("; group serve --help lists those that it knows")


def test_what_sets_another_command_is_known() -> None:
    assert invoke(TREADLE_TRUST_TRUST="::1", TREADLE_SERVE_CONFIG="", TREADLE_SERVE_THREADS="1").stderr == ""
    error = invoke(TREADLE_TRUST_TRUSTED="::1", TREADLE_SERVE_PRINT_CONFIG="1").stderr
    assert names_of(error) == ["TREADLE_SERVE_PRINT_CONFIG", "TREADLE_TRUST_TRUSTED"]
    assert "did you mean TREADLE_TRUST_TRUST?" in error


def test_an_unknown_variable_is_named_before_the_error_that_it_may_explain() -> None:
    result = invoke("--threads", "many", TREADLE_SERVE_THREAD="5")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.index("TREADLE_SERVE_THREAD") < result.stderr.index("'many'")


def test_who_asks_for_help_is_not_warned() -> None:
    assert invoke("--help", TREADLE_SERVE_THREAD="5").stderr == ""


def test_each_value_is_printed_with_its_source(config: Path) -> None:
    env = {"TREADLE_SERVE_THREADS": "20"}
    result = invoke("--max-connections", "10", "--print-config", config=config, **env)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [re.split(r"  +# ", line) for line in result.stdout.splitlines() if "=" in line] == [
        ["threads = 20", "TREADLE_SERVE_THREADS"],
        ["max-connections = 10", "--max-connections"],
        ["idle-timeout = 3.0", f"{config}: [serve] idle-timeout"],
        ['host = "file"', f"{config}: [serve] host"],
    ]
    assert invoke("--print-config").stdout.count("# default") == 4


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    args = ("trust", "--trust", "::1,unix", "--trust", "10.0.0.0/8")
    for options in (args, args[:1]):
        printed = CliRunner().invoke(group, [*options, "--print-config"]).stdout
        (tmp_path / "printed.toml").write_text(printed)
        again = ["trust", "--config", str(tmp_path / "printed.toml")]
        assert CliRunner().invoke(group, again).output == CliRunner().invoke(group, options).output


@group.command(cls=ConfiguredCommand)
@click.option("--loud", is_flag=True, is_eager=True)
@click.option(
    "--volume",
    cls=Derived,
    callback=lambda ctx, param, value: value or ("11" if ctx.params["loud"] else "5"),
    show_default="5, or 11 with --loud",
)
def play(loud: bool, volume: str) -> None:
    """Say how loud."""
    click.echo(volume)


def test_what_follows_from_another_option_is_printed_as_a_comment_and_follows_still(tmp_path: Path) -> None:
    """Or a file that was printed without --loud would hold against a --loud that comes later."""
    path = tmp_path / "printed.toml"
    path.write_text(CliRunner().invoke(group, ["play", "--print-config"]).stdout)
    assert '# volume = "5"                            # default: 5, or 11 with --loud\n' in path.read_text()
    assert CliRunner().invoke(group, ["play", "--config", str(path)]).output == "5\n"
    assert CliRunner().invoke(group, ["play", "--config", str(path), "--loud"]).output == "11\n"
    assert '# volume = "11"' in CliRunner().invoke(group, ["play", "--loud", "--print-config"]).stdout


def test_what_was_given_is_printed_as_a_value_though_it_may_follow_from_another(tmp_path: Path) -> None:
    path = tmp_path / "printed.toml"
    path.write_text(CliRunner().invoke(group, ["play", "--volume", "7", "--print-config"]).stdout)
    assert re.search('(?m)^volume = "7" +# --volume$', path.read_text())
    assert CliRunner().invoke(group, ["play", "--config", str(path), "--loud"]).output == "7\n"


def test_a_mistake_is_said_instead_of_what_would_be_printed() -> None:
    result = invoke("--threads", "0", "--print-config")
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_path_that_no_comment_can_hold_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a\nb.toml"
    path.write_text("[serve]\nthreads = 3\n")
    printed = invoke("--print-config", config=path).stdout
    assert tomllib.loads(printed)["serve"]["threads"] == 3
    assert r"a\nb.toml: [serve] threads" in printed


@group.command(cls=ConfiguredCommand, groups={"First": ("name", "count")})
@click.argument("name", cls=Needed, metavar="NAME", envvar="TREADLE_GROUPED_NAME", what="Whose it is.")
@click.option("--count", default=1, show_default=True, help="How many of what goes by the name of --max-connections.")
@click.option("--rest", help="Stands under no title of its own.")
def grouped(name: str, count: int, rest: str | None) -> None:
    """Have titles."""
    click.echo(f"{name} {count} {rest}")


def test_help_lists_options_under_titles_with_their_variables_unbroken() -> None:
    result = CliRunner().invoke(group, ["grouped", "--help"], terminal_width=60)
    first, last = result.output.partition("First:\n")[2].split("\nConfiguration and help:\n")
    assert first == (
        "  NAME\n"
        "      Whose it is.  [env var: TREADLE_GROUPED_NAME]\n"
        "  --count INTEGER\n"
        "      How many of what goes by the name of\n"
        "      --max-connections.  [env var: TREADLE_GROUPED_COUNT;\n"
        "      default: 1]\n"
    )
    assert re.findall(r"(?m)^  (-\S+)", last) == ["--rest", "--config", "--print-config", "--help"]
    assert "TREADLE_GROUPED_PRINT_CONFIG" not in last


def test_an_argument_is_needed_to_run_and_not_to_print() -> None:
    result = CliRunner().invoke(group, ["grouped"])
    assert (result.exit_code, "Missing argument 'NAME'" in result.stderr) == (2, True)
    result = CliRunner().invoke(group, ["grouped", "--print-config"])
    assert (result.exit_code, "# name is not set\n" in result.stdout) == (0, True)
    for source, args, env in (("NAME", ["x"], {}), ("TREADLE_GROUPED_NAME", [], {"TREADLE_GROUPED_NAME": "x"})):
        printed = CliRunner().invoke(group, ["grouped", *args, "--print-config"], env=env).stdout
        assert re.search(rf'(?m)^name = "x" +# {source}$', printed)
