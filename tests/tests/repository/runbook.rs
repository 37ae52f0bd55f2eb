//! The runbook in `docs/operating/`: each log line on its pages, in blocks marked `log`, has its text in the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};

/// The folders of the sources that log.
const SOURCES: [&str; 6] = ["common/src", "discovery/src", "bootstrap/src", "node/src", "cli/src", "turn/src"];
/// A page has fewer lines, so that it can be read during an incident.
const MAX_LINES: usize = 60;
/// Texts with fewer fixed characters would fit almost any line.
const MIN_FIXED: usize = 8;

/// A text of the sources, in the parts between its placeholders.
struct Text(Vec<String>);

impl Text {
    /// Parses a text, with placeholders such as `{name}` or `{}`. `None` if too little of it is fixed.
    fn parse(literal: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let mut depth = 0;
        for letter in literal.chars() {
            match letter {
                '{' => depth += 1,
                '}' if depth > 0 => {
                    depth -= 1;
                    parts.push(String::new());
                }
                _ if depth == 0 => parts.last_mut()?.push(letter),
                _ => {}
            }
        }
        (parts.iter().map(String::len).sum::<usize>() >= MIN_FIXED).then_some(Self(parts))
    }

    /// What follows this text at the beginning of `line`, and the value of a placeholder at its end.
    fn rest<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (first, others) = self.0.split_first()?;
        let mut rest = line.strip_prefix(first.as_str())?;
        for part in others.iter().filter(|part| !part.is_empty()) {
            rest = &rest[rest.find(part.as_str())? + part.len()..];
        }
        Some(rest)
    }

    fn ends_in_placeholder(&self) -> bool {
        self.0.last().is_some_and(String::is_empty)
    }
}

/// Whether the texts of the sources make up this message, with its fields after it.
fn is_known(texts: &[Text], message: &str) -> bool {
    texts.iter().any(|text| {
        text.rest(message).is_some_and(|rest| {
            let is_value = text.ends_in_placeholder() && !rest.contains(' ');
            // Such as `{error}: {advice}`.
            let joined = rest.strip_prefix(": ").unwrap_or(rest);
            rest.is_empty() || is_value || begins_with_field(rest) || is_known(texts, joined)
        })
    })
}

/// Whether ` name=value` follows.
fn begins_with_field(rest: &str) -> bool {
    let field = rest.strip_prefix(' ').and_then(|rest| rest.split_once('='));
    field.is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
    })
}

/// The message of a log line: what follows time, level and module.
fn message(line: &str) -> Option<&str> {
    let (_, rest) = ["ERROR ", "WARN ", "INFO "].iter().find_map(|level| line.split_once(level))?;
    let (module, message) = rest.split_once(": ")?;
    (module.starts_with("chappe") && !module.contains(' ')).then_some(message)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let (folders, files): (Vec<_>, Vec<_>) =
        entries.map(|entry| entry.expect("an entry").path()).partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension));
    files.chain(folders.iter().flat_map(|folder| self::files(folder, extension))).collect()
}

fn collect(tokens: TokenStream, texts: &mut Vec<Text>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => collect(group.stream(), texts),
            TokenTree::Literal(literal) => {
                let text = syn::parse_str::<syn::LitStr>(&literal.to_string());
                texts.extend(text.ok().and_then(|text| Text::parse(&text.value())));
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

fn texts(root: &Path) -> Vec<Text> {
    let mut texts = Vec::new();
    for file in SOURCES.iter().flat_map(|folder| files(&root.join(folder), "rs")) {
        let source = fs::read_to_string(&file).expect("a source");
        collect(source.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display())), &mut texts);
    }
    texts
}

/// The lines of the blocks marked `log`.
fn log_lines(page: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    page.lines().filter(move |line| {
        let was_inside = is_inside;
        is_inside = if is_inside { line.trim() != "```" } else { line.trim() == "```log" };
        was_inside && is_inside
    })
}

#[test]
fn each_log_line_of_the_runbook_is_in_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let texts = texts(&root);
    let pages = files(&root.join("docs/operating"), "md");
    assert!(pages.len() >= 9, "only {} pages", pages.len());
    let mut lines = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        assert!(text.lines().count() < MAX_LINES, "{} is too long", page.display());
        for line in log_lines(&text) {
            lines += 1;
            let known = message(line).is_some_and(|message| is_known(&texts, message));
            assert!(known, "{}: no source logs this:\n{line}", page.display());
        }
    }
    assert!(lines >= 9, "only {lines} log lines");
}

#[test]
fn a_log_line_that_no_source_has_is_found() {
    let literals = ["clients are sent elsewhere: {reason}", "the clock of this machine is wrong", "{error}: {ADVICE}"];
    let texts: Vec<_> = literals.iter().filter_map(|literal| Text::parse(literal)).collect();
    assert_eq!(texts.len(), 2);
    let line = "2026-11-30T00:04:30Z ERROR chappe_node::health: clients are sent elsewhere: the clock of this machine is wrong";
    let known = |line: &str| message(line).is_some_and(|message| is_known(&texts, message));
    assert!(known(line) && known(&format!("{line} seconds=3")));
    for wrong in ["is right", "is wrong now", "was wrong"] {
        assert!(!known(&line.replace("is wrong", wrong)), "{wrong}");
    }
    assert!(!known(&line.replace("are sent", "were sent")) && !known("clients are sent elsewhere: nothing"));
    assert_eq!(
        log_lines("a\n```log\nb\nc\n```\nd\n```text\ne\n```\n1. f\n   ```log\n   g\n   ```\n").collect::<Vec<_>>(),
        ["b", "c", "   g"]
    );
}
