"""The page of an experiment in a real browser, where one is installed."""

import shutil
import subprocess

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PROBE = """
<script>
addEventListener("load", () => {
  const pictures = [...document.images].map((image) => image.naturalWidth > 300);
  const rows = document.querySelectorAll("tbody tr").length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.title = JSON.stringify({pictures, rows, wide});
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_table_and_pictures_and_nothing_runs_over_the_side(small, tmp_path, width):
    small(["Random", "Ours WD+LR"], more='figures = ["distribution", "curves"]')
    page = (small.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http://www.w3.org", "")  # it needs nothing from elsewhere
    probed = tmp_path / "probed.html"
    probed.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    options = (f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom")
    shown = subprocess.run(
        [BROWSER, *QUIET, *options, probed.as_uri()], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    assert '<title>{"pictures":[true,true],"rows":2,"wide":false}</title>' in shown
