//! Two plots as SVG, by hand: bars of one figure per contender, and lines of a figure over something that grows tenfold.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const ROW: f64 = 26.0;
const LEFT: f64 = 260.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 40.0;
const COLOURS: [&str; 4] = ["#2563a8", "#c8642a", "#3c8d53", "#8a5aa8"];

/// A bar, or a dot of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its lengths, one per series; none where it was not measured.
    pub values: Vec<Option<f64>>,
}

/// Horizontal bars, one group per contender, one colour per series. Logarithmic where lengths differ a lot.
#[must_use]
pub fn bars(title: &str, series: &[&str], bars: &[Bar]) -> String {
    let thickness = ROW / 1.3;
    let group = series.len() as f64 * thickness + 12.0;
    let height = TOP + 24.0 + group * bars.len() as f64 + 10.0;
    let all = || bars.iter().flat_map(|bar| bar.values.iter().copied().flatten()).filter(|v| *v > 0.0);
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let scale = Scale::new(least, most);
    let mut svg = begin(title, height);
    legend(&mut svg, series);
    for (row, bar) in bars.iter().enumerate() {
        let top = TOP + 24.0 + group * row as f64;
        text(&mut svg, LEFT - 8.0, top + group / 2.0 - 2.0, "end", &bar.name);
        for (place, value) in bar.values.iter().enumerate() {
            let y = top + thickness * place as f64;
            let Some(value) = value else {
                text(&mut svg, LEFT + 4.0, y + 13.0, "start", "not measured");
                continue;
            };
            let length = scale.of(*value) * (WIDTH - LEFT - RIGHT);
            let _ = writeln!(
                svg,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{:.1}" fill="{}"/>"#,
                thickness - 2.0,
                COLOURS[place % COLOURS.len()]
            );
            text(&mut svg, LEFT + length + 5.0, y + 13.0, "start", &short(*value));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Lines over a logarithmic axis, one colour per series; `points` are named by what grows.
#[must_use]
pub fn lines(title: &str, series: &[&str], points: &[Bar]) -> String {
    const HEIGHT: f64 = 320.0;
    const BOTTOM: f64 = 40.0;
    const AXIS: f64 = 60.0;
    let most = points.iter().flat_map(|point| point.values.iter().copied().flatten()).fold(0.0, f64::max);
    let x =
        |place: usize| AXIS + 40.0 + place as f64 * (WIDTH - AXIS - 120.0) / (points.len().max(2) - 1) as f64;
    let y =
        |value: f64| HEIGHT - BOTTOM - value / most.max(f64::MIN_POSITIVE) * (HEIGHT - BOTTOM - TOP - 30.0);
    let mut svg = begin(title, HEIGHT);
    legend(&mut svg, series);
    for part in [0.0, 0.5, 1.0] {
        let at = y(most * part);
        let _ = writeln!(
            svg,
            r##"<line x1="{AXIS}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="#ddd"/>"##,
            WIDTH - 20.0
        );
        text(&mut svg, AXIS - 6.0, at + 4.0, "end", &short(most * part));
    }
    for (place, point) in points.iter().enumerate() {
        text(&mut svg, x(place), HEIGHT - BOTTOM + 20.0, "middle", &point.name);
    }
    for (number, colour) in
        series.iter().enumerate().map(|(number, _)| (number, COLOURS[number % COLOURS.len()]))
    {
        let mut path = String::new();
        for (place, point) in points.iter().enumerate() {
            let Some(value) = point.values.get(number).copied().flatten() else { continue };
            let _ = write!(path, "{:.1},{:.1} ", x(place), y(value));
            let _ = writeln!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}"/>"#,
                x(place),
                y(value)
            );
            text(&mut svg, x(place), y(value) - 8.0, "middle", &short(value));
        }
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.trim_end()
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Lengths from 0 to 1: linear, or logarithmic when the least is far below the most.
#[derive(Debug, Clone, Copy)]
enum Scale {
    Linear { most: f64 },
    Logarithmic { base: f64, span: f64 },
}

impl Scale {
    fn new(least: f64, most: f64) -> Self {
        const FAR: f64 = 20.0;
        if most <= least * FAR {
            return Self::Linear { most: most.max(f64::MIN_POSITIVE) };
        }
        // The shortest bar keeps a length that can be seen.
        let base = least / 3.0;
        Self::Logarithmic { base, span: (most / base).ln() }
    }

    fn of(self, value: f64) -> f64 {
        match self {
            Self::Linear { most } => value / most,
            Self::Logarithmic { base, span } => (value.max(base) / base).ln() / span,
        }
    }
}

fn begin(title: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let _ = writeln!(
        svg,
        r#"<text x="{:.0}" y="22" text-anchor="middle" font-size="16">{}</text>"#,
        WIDTH / 2.0,
        escaped(title)
    );
    svg
}

fn legend(svg: &mut String, series: &[&str]) {
    for (place, name) in series.iter().enumerate() {
        let x = LEFT + 190.0 * place as f64;
        let colour = COLOURS[place % COLOURS.len()];
        let _ = writeln!(svg, r#"<rect x="{x:.0}" y="36" width="11" height="11" fill="{colour}"/>"#);
        text(svg, x + 16.0, 46.0, "start", name);
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(what));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn short(value: f64) -> String {
    super::table::number(Some(value), if value >= 100.0 { 0 } else { 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_element() {
        let bar = Bar { name: "a<b>&".into(), values: vec![Some(1.0), None] };
        let svg = bars("t", &["x", "y"], &[bar]);
        assert!(svg.contains("a&lt;b&gt;&amp;") && svg.contains("not measured"));
    }

    #[test]
    fn the_longest_bar_is_as_long_as_there_is_room_and_none_vanishes() {
        for (least, most) in [(1.0, 2.0), (1.0, 10_000.0)] {
            let scale = Scale::new(least, most);
            assert!((scale.of(most) - 1.0).abs() < 1e-9);
            assert!(scale.of(least) > 0.05);
        }
    }

    #[test]
    fn a_line_has_a_dot_per_point() {
        let point = |name: &str, value| Bar { name: name.into(), values: vec![Some(value)] };
        let svg = lines("t", &["x"], &[point("1", 1.0), point("10", 2.0)]);
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
