//! Output of figures: a table for people, or one JSON object a line.

use serde_json::{Value, json};

/// Prints figures as they are measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    json: bool,
}

impl Figures {
    /// Prints JSON if the program's arguments contain `--json`.
    pub fn from_args() -> Self {
        Self { json: std::env::args().any(|arg| arg == "--json") }
    }

    /// Prints one figure. `target` is its upper limit, if it has one. Returns whether the value is within it.
    #[expect(clippy::must_use_candidate, reason = "most are printed for themselves")]
    pub fn print(self, figure: &str, value: f64, unit: &str, target: Option<f64>) -> bool {
        let ok = target.is_none_or(|target| value <= target);
        self.print_if(figure, value, unit, target, "≤", ok);
        ok
    }

    /// Prints one figure. `target` is its lower limit, if it has one.
    pub fn print_least(self, figure: &str, value: f64, unit: &str, target: Option<f64>) {
        self.print_if(figure, value, unit, target, "≥", target.is_none_or(|target| value >= target));
    }

    fn print_if(self, figure: &str, value: f64, unit: &str, target: Option<f64>, than: &str, ok: bool) {
        if self.json {
            let value = json!({"figure": figure, "value": round(value), "unit": unit, "target": target, "ok": ok});
            println!("{value}");
            return;
        }
        let wanted = target.map_or_else(String::new, |target| format!("  (wanted: {than} {target} {unit})"));
        let mark = if ok { ' ' } else { '!' };
        println!("{mark} {figure:<64} {:>10} {unit}{wanted}", round(value).to_string());
    }

    /// Prints a warning about the figures.
    pub fn warn(self, text: &str) {
        if self.json {
            println!("{}", json!({"warning": text}));
        } else {
            println!("! {text}");
        }
    }

    /// Prints progress to standard error, unless the output is JSON.
    pub fn remark(self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }
}

fn round(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}

/// The percentile `share` (0 to 1) of the values, by nearest rank. Sorts them.
///
/// # Panics
/// There are no values.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index within a small slice")]
    let index = ((values.len() - 1) as f64 * share).round() as usize;
    values[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.0), 1.0);
        assert_eq!(percentile(&mut values, 0.5), 51.0);
        assert_eq!(percentile(&mut values, 0.99), 99.0);
        assert_eq!(percentile(&mut values, 1.0), 100.0);
    }
}
