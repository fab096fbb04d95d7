"""The site builds, without a warning and without a dead link."""

import logging
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of its plugins are not ours
def test_it_builds_strictly_and_is_whole(tmp_path, monkeypatch):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    config.plugins.run_event("startup", command="build", dirty=False)
    problems: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: problems.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        build(config)  # links and anchors to nowhere are warnings, and end it
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
        config.plugins.run_event("shutdown")
    assert problems == []
    front = (tmp_path / "index.html").read_text()
    assert "to_drop_connect" in front and "<!-- twenty lines -->" not in front
    names = {path.stem for path in (ROOT / "guides").glob("*.py")}
    assert {path.stem for path in (tmp_path / "guides").glob("*.html")} == names
    assert "evaluate_population" in (tmp_path / "api" / "evaluation.html").read_text()
    for page in tmp_path.rglob("*.html"):
        # Nothing is loaded from elsewhere.
        loaded = re.findall(r'<(?:script|img)[^>]* src="?(https?:)', page.read_text())
        assert not loaded, page
