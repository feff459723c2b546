//! Draws two runs side by side as an SVG that is readable on light and on dark pages.

use std::time::Duration;

use super::{PROMPT, Phase, RATE, Tally};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 466.0;
const PANEL_WIDTH: f64 = 368.0;
const PANELS: [f64; 2] = [52.0, 460.0];
const BANDS_TOP: f64 = 34.0;
const WAIT: Plot = Plot { top: 86.0, height: 90.0 };
const RESULTS: Plot = Plot { top: 212.0, height: 110.0 };
const RECEIVED: Plot = Plot { top: 358.0, height: 44.0 };

/// The class and the name of a result, and the number of callers that got it.
type Series = (&'static str, &'static str, fn(&Tally) -> u64);

/// The results in the order in which they are stacked.
const STACKED: [Series; 6] = [
    ("prompt", "ok within 500 ms", |tally| tally.prompt),
    ("late", "ok later", |tally| tally.late),
    ("degraded", "degraded", |tally| tally.degraded),
    ("failed", "failed", |tally| tally.failed),
    ("timed-out", "timed out", |tally| tally.timed_out),
    ("rejected", "rejected at once", |tally| tally.rejected),
];

const STYLE: &str = "
    svg { --page: #fff; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --bar: #6e7781 }
    svg { --slow: #fff3d6; --failing: #fde5e0 }
    @media (prefers-color-scheme: dark) {
      svg { --page: #0d1117; --ink: #f0f6fc; --soft: #9198a1; --line: #30363d; --bar: #9198a1 }
      svg { --slow: #2b2412; --failing: #33191a }
    }
    text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif }
    text { fill: var(--soft) }
    .title { font-size: 14px; font-weight: 600; fill: var(--ink) }
    .note { fill: var(--ink) }
    .end { text-anchor: end } .middle { text-anchor: middle }
    .page { fill: var(--page) } .line { stroke: var(--line) } .bar { fill: var(--bar) }
    .limit { stroke: var(--ink); stroke-dasharray: 3 3 }
    .slow { fill: var(--slow) } .failing { fill: var(--failing) } .healthy { fill: none }
    .prompt { fill: #1a9e77 } .late { fill: #e6a118 } .degraded { fill: #8fd4bd }
    .failed { fill: #d1453b }
    .timed-out { fill: #9467bd } .rejected { fill: #7fb2dd }
";

struct Plot {
    top: f64,
    height: f64,
}

impl Plot {
    fn bottom(&self) -> f64 {
        self.top + self.height
    }

    fn y(&self, value: f64, most: u32) -> f64 {
        self.bottom() - self.height * value / f64::from(most)
    }
}

/// Returns the SVG. Each run is given as the results of the calls made in each second.
pub(crate) fn draw(bare: &[Tally], protected: &[Tally]) -> String {
    let mut svg = Svg(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
  <title>The same traffic with a bare client and through a stack</title>
  <style>{STYLE}  </style>
"#
    ));
    svg.rect("page", 0.0, 0.0, WIDTH, HEIGHT);
    let longest = bare.iter().chain(protected).map(p99).max().unwrap_or_default();
    let seconds = (longest.as_secs_f64().ceil() as u32).max(1);
    let titles = ["A bare client", "The same client in a stack with a cache"];
    for (index, (left, run)) in PANELS.into_iter().zip([bare, protected]).enumerate() {
        svg.text("title", left, 22.0, titles[index]);
        panel(&mut svg, left, run, seconds);
    }
    axes(&mut svg, seconds);
    legend(&mut svg);
    svg.0 + "</svg>\n"
}

fn panel(svg: &mut Svg, left: f64, run: &[Tally], most_seconds: u32) {
    let step = PANEL_WIDTH / run.len() as f64;
    let x_at = |second: usize| left + step * second as f64;
    for second in (0..run.len()).step_by(3) {
        let phase = Phase::at(second as u64).name();
        let height = RECEIVED.bottom() - BANDS_TOP;
        svg.rect(phase, x_at(second), BANDS_TOP, 3.0 * step, height);
        svg.text("middle", x_at(second) + 1.5 * step, BANDS_TOP + 16.0, phase);
    }
    let headings = [
        (WAIT, "99 of 100 callers waited at most"),
        (RESULTS, "what the callers got, per second"),
        (RECEIVED, "what the server received, per second"),
    ];
    for (plot, heading) in headings {
        svg.text("note", left + 4.0, plot.top - 9.0, heading);
        svg.line("line", left, plot.bottom(), left + PANEL_WIDTH, plot.bottom());
    }
    let longest = run.iter().map(p99).max().unwrap_or_default();
    let longest_at = run.iter().position(|tally| p99(tally) == longest);
    for (second, tally) in run.iter().enumerate() {
        let (x, width) = (x_at(second) + 0.14 * step, 0.72 * step);
        let top = WAIT.y(p99(tally).as_secs_f64(), most_seconds);
        svg.rect("bar", x, top, width, WAIT.bottom() - top);
        if longest_at == Some(second) {
            let text = format!("{:.1} s", longest.as_secs_f64());
            svg.text("note middle", x + width / 2.0, top - 4.0, &text);
        }
        let mut stacked = 0;
        for (class, _, count) in STACKED {
            let bottom = RESULTS.y(stacked as f64, RATE);
            stacked += count(tally);
            let top = RESULTS.y(stacked as f64, RATE);
            svg.rect(class, x, top, width, bottom - top);
        }
        let top = RECEIVED.y(tally.server_requests as f64, RATE);
        svg.rect("bar", x, top, width, RECEIVED.bottom() - top);
    }
    let limit = WAIT.y(PROMPT.as_secs_f64(), most_seconds);
    svg.line("limit", left, limit, left + PANEL_WIDTH, limit);
    for second in (0..=run.len()).step_by(3) {
        svg.text("middle", x_at(second), RECEIVED.bottom() + 16.0, &format!("{second} s"));
    }
}

fn axes(svg: &mut Svg, most_seconds: u32) {
    let mut label = |y: f64, text: &str| svg.text("end", PANELS[0] - 8.0, y + 4.0, text);
    for second in 0..=most_seconds {
        label(WAIT.y(second.into(), most_seconds), &format!("{second} s"));
    }
    label(WAIT.y(PROMPT.as_secs_f64(), most_seconds), "0.5 s");
    for (plot, step) in [(RESULTS, RATE / 2), (RECEIVED, RATE)] {
        for calls in (0..=RATE).step_by(step as usize) {
            label(plot.y(calls.into(), RATE), &calls.to_string());
        }
    }
}

fn legend(svg: &mut Svg) {
    let mut x = PANELS[0];
    for (class, name, _) in STACKED {
        svg.rect(class, x, HEIGHT - 27.0, 11.0, 11.0);
        svg.text("note", x + 17.0, HEIGHT - 17.0, name);
        x += 44.0 + 7.0 * name.len() as f64;
    }
}

fn p99(tally: &Tally) -> Duration {
    Duration::from_millis(tally.waited(99) as u64)
}

struct Svg(String);

impl Svg {
    fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        if height > 0.0 {
            self.0 += &format!(r#"  <rect class="{class}" x="{x:.1}" y="{y:.1}""#);
            self.0 += &format!(" width=\"{width:.1}\" height=\"{height:.1}\"/>\n");
        }
    }

    fn line(&mut self, class: &str, x1: f64, y1: f64, x2: f64, y2: f64) {
        self.0 += &format!(r#"  <line class="{class}" x1="{x1:.1}" y1="{y1:.1}""#);
        self.0 += &format!(" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>\n");
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let start = format!(r#"  <text class="{class}" x="{x:.1}" y="{y:.1}">"#);
        self.0 += &format!("{start}{text}</text>\n");
    }
}
