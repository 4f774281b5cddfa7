//! Figures: their table on the terminal, and their JSON. Knows nothing of how they are measured.

use std::fmt;

use serde::Serialize;

/// What a figure should reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The value is at most this.
    AtMost(f64),
    /// The value is at least this.
    AtLeast(f64),
    /// The ratio is at least this.
    RatioAtLeast(f64),
}

/// A measured figure, with its control from the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, which `target/bench.json` keeps from run to run.
    pub name: String,
    /// The value, in `unit`.
    pub value: f64,
    /// The unit of `value` and `control`.
    pub unit: &'static str,
    /// The value of the control, if there is one.
    pub control: Option<f64>,
    /// The ratio of both: above 1 is better than the control.
    pub ratio: Option<f64>,
    /// What it should reach.
    #[serde(skip)]
    pub goal: Option<Goal>,
}

impl Figure {
    /// A figure without a control.
    #[must_use]
    pub fn alone(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, control: None, ratio: None, goal: None }
    }

    /// A rate and that of its control; the ratio is value / control.
    #[must_use]
    pub fn rate(name: impl Into<String>, value: f64, unit: &'static str, control: f64) -> Self {
        Self { control: Some(control), ratio: Some(value / control), ..Self::alone(name, value, unit) }
    }

    /// A duration or size and that of its control; the ratio is control / value.
    #[must_use]
    pub fn duration(name: impl Into<String>, value: f64, unit: &'static str, control: f64) -> Self {
        Self { control: Some(control), ratio: Some(control / value), ..Self::alone(name, value, unit) }
    }

    /// The figure with a goal.
    #[must_use]
    pub fn with_goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// Whether the goal is met; `None` without a goal.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        match self.goal? {
            Goal::AtMost(most) => Some(self.value <= most),
            Goal::AtLeast(least) => Some(self.value >= least),
            Goal::RatioAtLeast(least) => Some(self.ratio? >= least),
        }
    }

    fn cells(&self) -> [String; 6] {
        let goal = match (self.goal, self.is_met()) {
            (Some(goal), Some(is_met)) => format!("{goal}: {}", if is_met { "met" } else { "MISSED" }),
            _ => String::new(),
        };
        let or_none = |value: Option<f64>| value.map(number).unwrap_or_default();
        [self.name.clone(), number(self.value), self.unit.into(), or_none(self.control), or_none(self.ratio), goal]
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {}", number(*most)),
            Self::AtLeast(least) => write!(f, ">= {}", number(*least)),
            Self::RatioAtLeast(least) => write!(f, "ratio >= {}", number(*least)),
        }
    }
}

/// The figures as a text table.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let head = ["benchmark", "value", "unit", "control", "ratio", "goal"].map(String::from);
    let rows: Vec<_> = std::iter::once(head).chain(figures.iter().map(Figure::cells)).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
    let mut text = String::new();
    for [name, value, unit, control, ratio, goal] in rows {
        let [w_name, w_value, w_unit, w_control, w_ratio, _] = widths;
        let line = format!(
            "{name:w_name$}  {value:>w_value$} {unit:w_unit$}  {control:>w_control$}  {ratio:>w_ratio$}  {goal}"
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The figures as an array of `{"name", "value", "unit", "control", "ratio"}`, with null for a missing control.
///
/// # Errors
/// None that a figure can cause.
pub fn json(figures: &[Figure]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(figures).map(|text| text + "\n")
}

/// A number with three significant digits, or all digits of its whole part; thousands separated by commas.
#[must_use]
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

/// The median: the middle value, or the mean of the middle two; NaN of no values.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The percentile by nearest rank; NaN of no values.
#[must_use]
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_value() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();

        assert_eq!([0, 50, 99, 100].map(|percent| number(percentile(&values, percent))), ["1.00", "100", "198", "200"]);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn numbers_keep_three_significant_digits() {
        let written = [0.0, 0.01234, 1.234, 12.34, 123.4, 1234.5, 1_234_567.0, -1234.0].map(number);

        assert_eq!(written, ["0", "0.012", "1.23", "12.3", "123", "1,234", "1,234,567", "-1,234"]);
    }

    #[test]
    fn a_ratio_above_one_is_better_than_the_control() {
        let rate = Figure::rate("r", 50.0, "1/s", 100.0);
        let duration = Figure::duration("d", 50.0, "ms", 100.0);

        assert_eq!((rate.ratio.map(number), duration.ratio.map(number)), (Some("0.500".into()), Some("2.00".into())));
    }

    #[test]
    fn goals_are_met_or_missed() {
        let figure = Figure::rate("r", 50.0, "1/s", 100.0);

        assert_eq!(figure.is_met(), None);
        assert_eq!(figure.clone().with_goal(Goal::RatioAtLeast(0.5)).is_met(), Some(true));
        assert_eq!(figure.clone().with_goal(Goal::RatioAtLeast(0.6)).is_met(), Some(false));
        assert_eq!(figure.clone().with_goal(Goal::AtMost(50.0)).is_met(), Some(true));
        assert_eq!(figure.with_goal(Goal::AtMost(49.0)).is_met(), Some(false));
    }

    #[test]
    fn table_aligns_its_columns() {
        let poll = Figure::rate("poll", 20_000.0, "req/s", 40_000.0).with_goal(Goal::RatioAtLeast(0.7));

        let text = table(&[poll, Figure::alone("bytes a person", 126.0, "B")]);

        let expected = "\
benchmark        value unit   control  ratio  goal
poll            20,000 req/s   40,000  0.500  ratio >= 0.700: MISSED
bytes a person     126 B
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_null_for_a_missing_control() {
        let figures = [Figure::alone("a", 1.5, "ms").with_goal(Goal::AtMost(2.0)), Figure::rate("b", 1.0, "1/s", 4.0)];

        let read: serde_json::Value = serde_json::from_str(&json(&figures).unwrap()).unwrap();

        let expected = serde_json::json!([
            {"name": "a", "value": 1.5, "unit": "ms", "control": null, "ratio": null},
            {"name": "b", "value": 1.0, "unit": "1/s", "control": 4.0, "ratio": 0.25},
        ]);
        assert_eq!(read, expected);
    }
}
