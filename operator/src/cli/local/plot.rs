//! `--plot FILE.svg`: the loss over the steps as a picture that every browser shows.
use super::curve::{self, Point};
use crate::runtime::files::{Access, write_atomic};
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Size of the picture, and where the curve is in it, in its units.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 450.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 780.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 400.0;
/// Steps that are drawn as one: a million points are no clearer than these.
const COLUMNS: usize = 700;
/// About so many lines across.
const TICKS: f64 = 6.0;

/// Draws the metrics of the job directory `out`. Whether there was anything to draw.
pub(super) fn write(out: &Path, name: &str, file: &Path) -> io::Result<bool> {
    let points = curve::read(out)?;
    let Some(svg) = draw(name, &points) else { return Ok(false) };
    write_atomic(file, svg.as_bytes(), Access::Public)?;
    Ok(true)
}

/// `None` if there is nothing finite to draw.
fn draw(name: &str, points: &[Point]) -> Option<String> {
    let series = |measure: usize| -> Vec<(f64, f64)> {
        let steps = points.iter().filter_map(|point| Some((point.step as f64, point.values[measure]?)));
        thin(&steps.collect::<Vec<_>>())
    };
    let (loss, eval) = (series(0), series(1));
    let all = || loss.iter().chain(&eval);
    let x = Axis::around(all().map(|point| point.0), LEFT, RIGHT)?;
    let y = Axis::around(all().map(|point| point.1), BOTTOM, TOP)?;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#333\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escaped(name)
    );
    for value in y.ticks() {
        let at = y.place(value);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#ddd\"/>");
        let at = at + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{at:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y.label(value)
        );
    }
    for value in x.ticks() {
        let at = x.place(value);
        let _ = writeln!(svg, "<path d=\"M{at:.1} {TOP}V{BOTTOM}\" stroke=\"#ddd\"/>");
        let text = BOTTOM + 18.0;
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{text}\" text-anchor=\"middle\">{}</text>",
            x.label(value)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">step</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 38.0
    );
    for (name, color, points, legend) in
        [("loss", "#1f77b4", &loss, 640.0), ("eval loss", "#d62728", &eval, 700.0)]
    {
        if points.is_empty() {
            continue;
        }
        let places: Vec<_> =
            points.iter().map(|point| format!("{:.1},{:.1}", x.place(point.0), y.place(point.1))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" stroke-linecap=\"round\"/>",
            places.join(" ")
        );
        let _ = writeln!(svg, "<text x=\"{legend}\" y=\"24\" fill=\"{color}\">{name}</text>");
    }
    svg += "</svg>\n";
    Some(svg)
}

/// Of many points the lowest and the highest of each column, so that no peak is lost.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * COLUMNS {
        return points.to_vec();
    }
    let mut few = Vec::with_capacity(2 * COLUMNS);
    for column in points.chunks(points.len().div_ceil(COLUMNS)) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let ends = [column.iter().min_by(by), column.iter().max_by(by)];
        let mut ends: Vec<_> = ends.into_iter().flatten().copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        few.extend(ends);
    }
    few
}

/// One direction: from values to places.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    /// Between two lines: 1, 2 or 5 times a power of ten.
    tick: f64,
}

impl Axis {
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Option<Self> {
        let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
            let (low, high) = ends.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        });
        let (low, high) = ends?;
        // One value is in the middle of a little room.
        let room = if high > low { 0.0 } else { (low.abs() / 2.0).max(0.5) };
        let (low, high) = (low - room, high + room);
        let rough = (high - low) / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let tick = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|tick| *tick >= rough)?;
        Some(Self { low, high, from, to, tick })
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let first = (self.low / self.tick).ceil();
        // At most TICKS and one fit; the bound ends it for values whose neighbours are farther apart than lines.
        (0..=2 * TICKS as i32)
            .map(move |n| (first + f64::from(n)) * self.tick)
            .take_while(|value| *value <= self.high)
    }

    /// With as many digits as tell two lines apart.
    fn label(&self, value: f64) -> String {
        let digits = (-self.tick.log10().floor()).clamp(0.0, 12.0) as usize;
        format!("{value:.digits$}")
    }
}

fn escaped(text: &str) -> String {
    let text = text.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64, loss: Option<f64>, eval: Option<f64>) -> Point {
        Point { step, values: [loss, eval, None, None, None] }
    }

    /// The places of the curve of this colour.
    fn places(svg: &str, color: &str) -> Vec<(f64, f64)> {
        let line = svg.lines().find(|l| l.starts_with("<polyline") && l.contains(color)).unwrap();
        let list = line.split('"').nth(1).unwrap();
        let pair = |pair: &str| pair.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()));
        list.split(' ').map(|p| pair(p).unwrap()).collect()
    }

    #[test]
    fn the_curve_is_where_its_values_are() {
        let points = [
            point(1, Some(4.0), None),
            point(2, None, Some(2.5)),
            point(3, Some(3.0), None),
            point(5, Some(2.0), None),
        ];
        let svg = draw("a <b> & c", &points).unwrap();
        assert_eq!(places(&svg, "#1f77b4"), [(LEFT, TOP), (425.0, 220.0), (RIGHT, BOTTOM)]);
        assert_eq!(places(&svg, "#d62728"), [(247.5, 310.0)]);
        for text in [">a &lt;b&gt; &amp; c<", ">loss<", ">eval loss<", ">step<", ">2.5<", ">4.0<", ">3<"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
        assert_eq!(draw("", &[]), None);
        assert_eq!(draw("", &[point(1, None, None)]), None);
    }

    #[test]
    fn any_values_can_be_drawn() {
        for values in
            [vec![2.5], vec![0.0, 0.0], vec![1e-300, 2e-300], vec![-1e300, 1e300], vec![1.0, 1.0 + 1e-15]]
        {
            let points: Vec<_> =
                (1..).zip(values).map(|(step, loss)| point(step, Some(loss), None)).collect();
            let svg = draw("x", &points).unwrap();
            for (x, y) in places(&svg, "#1f77b4") {
                assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x} {y}");
            }
            assert!(svg.len() < 10_000);
        }
    }

    #[test]
    fn a_long_run_keeps_its_peaks() {
        let loss = |step: u64| if step == 123_456 { 9.0 } else { 1.0 };
        let points: Vec<_> = (1..=1_000_000).map(|step| point(step, Some(loss(step)), None)).collect();
        let svg = draw("long", &points).unwrap();
        assert!(svg.len() < 40_000);
        assert_eq!(places(&svg, "#1f77b4").iter().filter(|place| place.1 == TOP).count(), 1);
    }
}
