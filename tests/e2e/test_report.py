"""`distdl report`, opened in a real browser that is cut off from the network."""

import html
import json
import re
import subprocess

import pytest

pytestmark = pytest.mark.timeout(180)

# What a reader does with the first panel, the loss. The answers are left where --dump-dom finds them.
PLAY = """
const plot = document.querySelector(".plot"), tip = document.querySelector(".tip");
plot.setPointerCapture = () => {}; // there is no real pointer to capture
const at = (type, x) => plot.dispatchEvent(new PointerEvent(type, {
  clientX: plot.getBoundingClientRect().left + x, button: 0, pointerId: 1 }));
const look = () => {
  at("pointermove", 200);
  return {
    tip: tip.textContent,
    ticks: [...plot.querySelectorAll("text[text-anchor=middle]")].map((each) => each.textContent),
    raw: plot.querySelectorAll(".raw").length,
  };
};
const said = { begin: look() };
at("pointerdown", 150); at("pointermove", 250); at("pointerup", 250);
said.zoomed = look();
plot.dispatchEvent(new MouseEvent("dblclick"));
said.whole = look();
const slider = document.getElementById("smoothing");
slider.value = 0.8;
slider.dispatchEvent(new Event("input"));
said.smooth = look();
document.querySelector(".chip").click();
said.hidden = look();
document.getElementById("time").click();
document.getElementById("log").click();
said.time = look();
document.body.dataset.said = JSON.stringify(said);
"""


@pytest.fixture
def browse(chromium, tmp_path):
    def open_page(page) -> str:
        """The DOM after the scripts ran. Fails if the console has anything to say."""
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        command += ["--virtual-time-budget=1000", "--window-size=1200,900", page.as_uri()]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=90)
        assert ended.returncode == 0, ended.stderr
        assert not [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
        return ended.stdout

    return open_page


def panel(dom: str, title: str) -> str:
    return re.search(rf"<figcaption>{title}</figcaption>(.*?)</figure>", dom, re.DOTALL)[1]


@pytest.mark.needs("chromium")
def test_a_report_opens_offline_and_draws_the_curves_and_images_of_two_runs(place, browse):
    for name, lr in (("a", 0.05), ("b", 0.1)):
        result = place.run("train", place.config(optim__lr=lr, train__log_every=4), "--name", name)
        assert result.code == 0, result.output

    result = place.run("report", "a", "b")
    dom = browse(place.path / "report.html")

    assert result.code == 0 and "report.html" in result.output
    assert panel(dom, "loss").count('class="line"') == 4  # training and evaluation of two runs
    assert panel(dom, "top1").count('class="line"') == 2
    assert panel(dom, "learning rate").count('class="line"') == 2
    assert panel(dom, "a").count('class="area"') >= 2  # the parts of a step
    assert dom.count('class="matrix"') == 2
    images = re.findall('<img src="data:image/png;base64,[^"]+"', dom)
    assert len(images) > 2 * 24
    assert not re.findall(r'(?:src|href)="(?!data:|#)', dom)


@pytest.mark.needs("chromium")
def test_the_report_of_a_run_that_failed_before_its_first_number_opens(place, browse):
    assert place.run("train", place.config(checkpoint__best="top9")).code == 2

    assert place.run("report", "run").code == 0

    assert "run" in browse(place.path / "runs/run/report.html")


@pytest.mark.needs("chromium")
def test_a_reader_zooms_hovers_smooths_and_hides(place, browse):
    assert place.run("train", place.config(train__log_every=1)).code == 0
    assert place.run("report", "run", "--no-predictions", "--out", "page.html").code == 0
    page = (place.path / "page.html").read_text()
    # The page's policy lets no second script run; this one is let in.
    played = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (place.path / "played.html").write_text(played.replace("</body>", f"<script>{PLAY}</script></body>"))

    dom = browse(place.path / "played.html")
    said = json.loads(html.unescape(re.search('data-said="([^"]*)"', dom)[1]))

    losses = {row["step"]: row["loss"] for row in place.rows("run")}
    step, loss = re.match(r"step (\d+)train([\d.]+)eval", said["begin"]["tip"]).groups()
    assert float(loss) == pytest.approx(losses[int(step)], rel=1e-3)
    assert said["begin"]["ticks"] == said["whole"]["ticks"] != said["zoomed"]["ticks"]
    steps = [int(tick) for tick in said["zoomed"]["ticks"]]
    assert min(steps) > 1 and max(steps) < 40
    assert said["begin"]["raw"] == 0 and said["smooth"]["raw"] == 1 and "(raw " in said["smooth"]["tip"]
    assert "train" not in said["hidden"]["tip"] and "eval" in said["hidden"]["tip"]
    assert re.match(r"[\d.]+s", said["time"]["tip"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["nowhere"], "no run 'nowhere'"), (["nowhere", "--samples", "0"], "--no-predictions")],
    ids=["no run", "no samples"],
)
def test_a_mistake_is_answered_without_a_traceback(place, arguments, says):
    result = place.run("report", *arguments)

    assert result.code == 2
    assert says in result.output and "Traceback" not in result.output
