"""Options of other servers, as `treadle wsgi` is given them by whoever comes from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from treadle._cli.commands import commands
from treadle._cli.web import elsewhere
from treadle._cli.web.wsgi import wsgi

PAGE = Path(__file__).parents[3] / "docs" / "coming-from.md"


def rows(server: str) -> dict[str, str]:
    """Return what the page says of each option of a server: how it is called here, or None."""
    part = PAGE.read_text().partition(f"## {server}\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for line in part.splitlines():
        theirs, *others = [cell.strip() for cell in line.strip("|").split("|")]
        here = next((cell for cell in others[:2] if cell == "None" or cell.startswith("`--")), "None")
        names, ours = (re.findall("`(-[^`]*)`", cell) for cell in (theirs, here))
        found.update(zip(names, ours if len(ours) == len(names) else [*ours, "None"][:1] * len(names), strict=True))
    return found


@pytest.mark.parametrize(
    ("server", "names"),
    [("gunicorn", elsewhere.GUNICORN), ("waitress", elsewhere.WAITRESS), ("uWSGI", elsewhere.UWSGI)],
)
def test_what_is_suggested_is_what_the_page_says(server: str, names: dict[str, str]) -> None:
    page = rows(server)
    long = {theirs: here for theirs, here in names.items() if theirs.startswith("--")}
    assert {theirs: page.get(theirs) for theirs in long} == long


def test_what_there_is_nothing_of_is_none_on_the_page() -> None:
    pages = [rows(server) for server in ("gunicorn", "waitress", "uWSGI")]
    for name in elsewhere.NOTHING:
        if name.startswith("--"):
            assert "None" in {page.get(name) for page in pages}, name


def test_no_option_of_its_own_is_explained_away() -> None:
    own = {flag for option in wsgi.params for flag in option.opts}
    assert own.isdisjoint(elsewhere.INSTEAD)
    assert own.issuperset(filter(None, elsewhere.INSTEAD.values()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "4"], "No such option '--workers'; here it is called '--processes'"),
        (["--workers=4"], "No such option '--workers'; here it is called '--processes'"),
        (["-w", "4"], "No such option '-w'; here it is called '--processes'"),
        (["--timeout", "30"], "No such option '--timeout'; here it is called '--request-timeout'"),
        (["--preload"], "No such option '--preload': treadle has nothing of the kind; docs/coming-from.md"),
        (["-k", "gevent"], "No such option '-k': treadle has nothing of the kind; docs/coming-from.md"),
        (["--acces-log", "-"], "'--access-log'"),
    ],
)
def test_an_option_of_another_server_is_told_with_what_it_is_called_here(options: list[str], said: str) -> None:
    result = CliRunner().invoke(commands, ["wsgi", "shop:app", *options])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_key_of_another_server_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text("[wsgi]\nworkers = 3\n")
    result = CliRunner().invoke(commands, ["wsgi", "shop:app", "--config", str(path)])
    assert "[wsgi] has no key 'workers'; here it is called 'processes'" in " ".join(result.output.split())
    path.write_text("[wsgi]\npreload = true\n")
    result = CliRunner().invoke(commands, ["wsgi", "shop:app", "--config", str(path)])
    assert "[wsgi] has no key 'preload': treadle has nothing of the kind" in " ".join(result.output.split())
