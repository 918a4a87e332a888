"""The documentation builds as a site: no dead link, no forgotten page, nothing asked of another host."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_blocks import ROOT

pytestmark = pytest.mark.servers

# What in a page makes a browser fetch something, or look up its host.
FETCHES = re.compile(
    r"""(?:<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|srcset|data)="""
    r"""|<link\b[^>]*?\bhref=|url\(|@import )["']?((?:https?:)?//[^"' )>]+)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def build(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    # Never --quiet: what is not logged is not counted, and strict counts warnings.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), *more]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)


def test_every_page_is_built_and_the_readme_is_the_first(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert built.is_file(), f"{page} is not built"
        assert page.stem == "index" or built.name in (site / "index.html").read_text(encoding="utf-8")
    index = (site / "index.html").read_text(encoding="utf-8")
    heading = re.search(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert heading is not None
    assert f">{heading[1]}<" in index
    assert 'src="pictures/exchange.svg"' in index


def test_no_page_or_style_fetches_anything_from_another_host(site: Path) -> None:
    found = {
        f"{path.relative_to(site)}: {address}"
        for kind in ("html", "css")
        for path in site.rglob(f"*.{kind}")
        for address in FETCHES.findall(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_remarks_for_the_test_are_on_no_page(site: Path) -> None:
    for path in site.rglob("*.html"):
        said = path.read_text(encoding="utf-8")
        assert (
            re.search(r"<!--\s*(setup|check|not run|run instead|runs until|at|send|tell):?", said) is None
        ), path


def test_a_link_or_an_anchor_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    for words in ("[dead](no-such-page.md)", "[dead](privacy.md#no-such-heading)"):
        docs = tmp_path / "docs"
        docs.mkdir(exist_ok=True)
        (docs / "index.md").write_text(f"# A page\n\n{words}\n", encoding="utf-8")
        (docs / "privacy.md").write_text("# Another page\n", encoding="utf-8")
        rules = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        rules = re.sub(r"^(hooks|docs_dir|site_dir|extra_css):.*\n", "", rules, flags=re.MULTILINE)
        rules = re.sub(r"\nnav:.*", "\n", rules, flags=re.DOTALL)
        (tmp_path / "mkdocs.yml").write_text(rules, encoding="utf-8")
        done = build(tmp_path / "built", "--config-file", str(tmp_path / "mkdocs.yml"))
        assert done.returncode != 0
        assert "Aborted with 1 warnings in strict mode" in done.stderr + done.stdout
