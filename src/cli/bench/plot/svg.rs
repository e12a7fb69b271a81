//! A chart as SVG: one line through its points, axes with their names, a straight line through the origin's side to
//! compare with. Colours follow the reader's choice of light or dark.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 60.0;
/// Ticks that an axis has at most.
const TICKS_MAX: f64 = 6.0;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#222}.title{font-size:15px;font-weight:600}\
.axis{stroke:#555;fill:none}.grid{stroke:#ddd}.line{stroke:#0b6bcb;stroke-width:2;fill:none}\
.dot{fill:#0b6bcb}.straight{stroke:#999;stroke-dasharray:5 4;fill:none}.back{fill:#fff}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#aaa}.grid{stroke:#333}.line{stroke:#5aa9f5}\
.dot{fill:#5aa9f5}.straight{stroke:#777}.back{fill:#161616}}";

/// What is drawn.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// From left to right.
    pub(super) points: &'a [(f64, f64)],
}

impl Chart<'_> {
    /// The whole file. The dashed line joins the first point with the last: a cost that grows faster than its work lies
    /// below it, one that grows more slowly above.
    pub(super) fn svg(&self) -> String {
        let x_most = self.points.iter().map(|point| point.0).fold(0.0, f64::max);
        let y_most = self.points.iter().map(|point| point.1).fold(0.0, f64::max);
        let (x_step, y_step) = (step(x_most), step(y_most));
        let (x_end, y_end) = (ceil_to(x_most, x_step), ceil_to(y_most, y_step));
        let at = |(x, y): (f64, f64)| {
            let right = LEFT + x / x_end * (WIDTH - LEFT - RIGHT);
            (right, HEIGHT - BOTTOM - y / y_end * (HEIGHT - TOP - BOTTOM))
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
             <style>{STYLE}</style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"26\">{title}</text>\n",
            title = escaped(self.title)
        );
        for n in 0..=(y_end / y_step).round() as u32 {
            let y = f64::from(n) * y_step;
            let (left, height) = at((0.0, y));
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{left:.1} {height:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                left - 8.0,
                height + 4.0,
                number(y, y_step)
            );
        }
        for n in 0..=(x_end / x_step).round() as u32 {
            let x = f64::from(n) * x_step;
            let (left, bottom) = at((x, 0.0));
            let _ = writeln!(
                svg,
                "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}v5\"/><text x=\"{left:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 20.0,
                number(x, x_step)
            );
        }
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\n\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 14.0,
            escaped(self.x),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escaped(self.y),
            bottom = HEIGHT - BOTTOM,
            right = WIDTH - RIGHT,
            middle = (LEFT + WIDTH - RIGHT) / 2.0,
        );
        let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
            let points: Vec<String> = points.map(at).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            format!("M{}", points.join("L"))
        };
        let ends = [self.points.first(), self.points.last()];
        let _ = writeln!(
            svg,
            "<path class=\"straight\" d=\"{}\"/>",
            path(&mut ends.into_iter().flatten().copied())
        );
        let _ = writeln!(svg, "<path class=\"line\" d=\"{}\"/>", path(&mut self.points.iter().copied()));
        for (x, y) in self.points.iter().copied().map(at) {
            let _ = writeln!(svg, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
        }
        svg + "</svg>\n"
    }
}

/// 1, 2 or 5 times a power of ten, so that an axis has few ticks.
fn step(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf((most / TICKS_MAX).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    steps.into_iter().find(|step| most / step <= TICKS_MAX).unwrap_or(10.0 * power)
}

fn ceil_to(most: f64, step: f64) -> f64 {
    (most / step - 1e-9).ceil().max(1.0) * step
}

/// Thousands in groups; as many decimals as the step has.
fn number(number: f64, step: f64) -> String {
    if step >= 1.0 {
        return super::super::super::output::grouped(number.round() as u64);
    }
    let decimals = (-step.log10()).ceil().clamp(0.0, 6.0) as usize;
    format!("{number:.decimals$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_a_few_round_ticks() {
        assert_eq!(step(6.0), 1.0);
        assert_eq!(step(100_000.0), 20_000.0);
        assert_eq!(step(37.0), 10.0);
        assert!((step(0.7) - 0.2).abs() < 1e-9);
        assert_eq!(step(0.0), 1.0);
        assert_eq!(ceil_to(100_000.0, 20_000.0), 100_000.0);
        assert_eq!(number(20_000.0, 5_000.0), "20,000");
        assert_eq!(number(0.25, 0.05), "0.25");
    }

    #[test]
    fn every_point_is_drawn_within_the_axes() {
        let points = [(0.0, 1.0), (50.0, 2.0), (100.0, 3.5)];
        let svg = Chart { title: "a < b", x: "x", y: "y & z", points: &points }.svg();
        assert_eq!(svg.matches("<circle").count(), points.len());
        assert!(svg.contains("a &lt; b") && svg.contains("y &amp; z"));
        for circle in svg.split("cx=\"").skip(1) {
            let x: f64 = circle.split('"').next().unwrap().parse().unwrap();
            let y: f64 = circle.split("cy=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
            assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{x} {y}");
        }
    }
}
