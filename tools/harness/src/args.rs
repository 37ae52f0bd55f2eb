//! The arguments that benches have in common: `[--json] [--quick] [--only ROW]…`.

/// The parsed arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Args<'a> {
    /// Fewer and shorter rounds.
    pub quick: bool,
    /// The selected rows. Empty: all.
    pub rows: Vec<&'a str>,
}

/// The arguments are wrong. The usage is to be shown.
#[derive(Debug, PartialEq, Eq)]
pub struct WrongArgs;

impl<'a> Args<'a> {
    /// Parses the arguments of a bench with these rows.
    ///
    /// # Errors
    /// An argument is unknown, or names no row.
    pub fn parse(args: &'a [String], rows: &[&str]) -> Result<Self, WrongArgs> {
        let mut parsed = Self { quick: false, rows: Vec::new() };
        let mut rest = args.iter().map(String::as_str);
        while let Some(arg) = rest.next() {
            match arg {
                // Read by `Figures`.
                "--json" => {}
                "--quick" => parsed.quick = true,
                "--only" => {
                    let row = rest.next().filter(|row| rows.contains(row)).ok_or(WrongArgs)?;
                    parsed.rows.push(row);
                }
                _ => return Err(WrongArgs),
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_selected_by_name() {
        let args = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let rows = ["a", "b"];
        assert_eq!(Args::parse(&args(""), &rows), Ok(Args { quick: false, rows: vec![] }));
        let all = args("--only b --json --quick --only a");
        assert_eq!(Args::parse(&all, &rows), Ok(Args { quick: true, rows: vec!["b", "a"] }));
        for wrong in ["--only", "--only c", "a", "--other"] {
            assert_eq!(Args::parse(&args(wrong), &rows), Err(WrongArgs), "{wrong}");
        }
    }
}
