//! Bars as an SVG picture: a card of its own, so that it reads on white and on dark pages alike; without scripts, fonts
//! and links; with a title and a description for those who cannot see it.

use std::fmt::Write as _;

/// A bar with its label on the left and its value behind it.
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// Its length, as compared with the others of the panel.
    pub value: f64,
    /// The value as people read it.
    pub text: String,
    /// Whether it is Sluice's.
    pub is_ours: bool,
}

/// Bars that are compared with each other, from zero.
pub struct Panel {
    /// What is compared, and in which unit.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

const COLUMNS: usize = 2;
const PANEL_WIDTH: f64 = 430.0;
const MARGIN: f64 = 24.0;
const TITLE_HEIGHT: f64 = 30.0;
const BAR_HEIGHT: f64 = 18.0;
const BAR_PITCH: f64 = 26.0;
/// Room for labels, and for values behind the longest bar.
const LABEL_WIDTH: f64 = 150.0;
const VALUE_WIDTH: f64 = 70.0;
/// Of text and bars on the card: contrasts of 15, 5.9 and 4.6 to 1.
const CARD: &str = "#f6f8fa";
const TEXT: &str = "#1f2328";
const OURS: &str = "#116329";
const THEIRS: &str = "#6e7781";

/// Draws panels in rows of two.
pub fn svg(title: &str, description: &str, panels: &[Panel]) -> String {
    let row_height = |row: &[Panel]| {
        let bars = row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
        TITLE_HEIGHT + bars as f64 * BAR_PITCH + MARGIN
    };
    let width = COLUMNS as f64 * (PANEL_WIDTH + MARGIN) + MARGIN;
    let height = panels.chunks(COLUMNS).map(row_height).sum::<f64>() + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"title desc\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"{TEXT}\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"desc\">{}</desc>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{CARD}\"/>\n",
        escaped(title),
        escaped(description),
    );
    let mut top = MARGIN;
    for row in panels.chunks(COLUMNS) {
        for (column, panel) in row.iter().enumerate() {
            draw(&mut out, panel, MARGIN + column as f64 * (PANEL_WIDTH + MARGIN), top);
        }
        top += row_height(row);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, left: f64, top: f64) {
    let title = escaped(&panel.title);
    let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\" font-weight=\"600\">{title}</text>", top + 14.0);
    let longest = panel.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let start = left + LABEL_WIDTH;
    for (index, bar) in panel.bars.iter().enumerate() {
        let y = top + TITLE_HEIGHT + index as f64 * BAR_PITCH;
        // What is next to nothing is still seen.
        let length = (bar.value / longest * (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH)).max(1.5);
        let colour = if bar.is_ours { OURS } else { THEIRS };
        let baseline = y + 14.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{start:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
            start - 8.0,
            escaped(&bar.label),
            start + length + 6.0,
            escaped(&bar.text),
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64) -> Bar {
        Bar { label: label.to_owned(), value, text: value.to_string(), is_ours: label == "a" }
    }

    #[test]
    fn bars_are_as_long_as_their_values_and_text_is_escaped() {
        let panels = [Panel { title: "spans < rows".into(), bars: vec![bar("a", 200.0), bar("b", 50.0)] }];
        let picture = svg("A & B", "a is longer", &panels);
        assert!(picture.contains("<title id=\"title\">A &amp; B</title>"), "{picture}");
        assert!(picture.contains("spans &lt; rows"), "{picture}");
        let widths: Vec<f64> = picture
            .split("<rect ")
            .skip(2)
            .filter_map(|rect| rect.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths, [210.0, 52.5]);
    }
}
