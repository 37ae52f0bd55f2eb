//! The pages of the repository: each link leads to a file and a heading, each diagram is one, and each file that is named
//! exists.
//!
//! The commands and configuration keys on the pages are checked by the tests of the command line.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Pages outside of the folders.
const PAGES: [&str; 3] = ["README.md", "CONTRIBUTING.md", "web/README.md"];
/// Folders of pages, with the folders in them.
const FOLDERS: [&str; 2] = ["docs", "deploy"];
/// What a Mermaid diagram may begin with.
const DIAGRAMS: [&str; 9] = [
    "flowchart",
    "graph",
    "sequenceDiagram",
    "stateDiagram-v2",
    "classDiagram",
    "erDiagram",
    "gantt",
    "pie",
    "timeline",
];

/// A page, apart from what its fenced blocks hold.
struct Page {
    path: PathBuf,
    /// Paragraphs, lists and tables, as blank lines and blocks part them.
    prose: Vec<String>,
    /// What links to its headings end in.
    anchors: BTreeSet<String>,
    /// The first line of each Mermaid block.
    diagrams: Vec<String>,
    /// The last block has no end.
    is_open: bool,
}

/// A fenced block that has no end so far.
struct Block {
    fence: String,
    language: String,
    first_line: Option<String>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut page = Self {
            path: path.to_owned(),
            prose: vec![String::new()],
            anchors: BTreeSet::new(),
            diagrams: Vec::new(),
            is_open: false,
        };
        let mut block: Option<Block> = None;
        for line in text.lines() {
            block = match block {
                Some(block) => page.read_block(block, line.trim()),
                None => page.read_prose(line),
            };
        }
        page.is_open = block.is_some();
        page
    }

    /// Reads a line of a block, and gives the block back unless it ends with that line.
    fn read_block(&mut self, mut block: Block, line: &str) -> Option<Block> {
        if fence_of(line).is_some_and(|fence| fence == line && fence.starts_with(&block.fence)) {
            if block.language == "mermaid" {
                self.diagrams.push(block.first_line.unwrap_or_default());
            }
            return None;
        }
        if block.first_line.is_none() && !line.is_empty() && !line.starts_with("%%") {
            block.first_line = Some(line.to_owned());
        }
        Some(block)
    }

    /// Reads a line outside of blocks, which may begin one.
    fn read_prose(&mut self, line: &str) -> Option<Block> {
        let trimmed = line.trim();
        if let Some(fence) = fence_of(trimmed) {
            let language = &trimmed[fence.len()..];
            if !language.contains('`') {
                self.prose.push(String::new());
                let language = language.trim().to_owned();
                return Some(Block { fence: fence.to_owned(), language, first_line: None });
            }
        }
        if let Some(title) = heading(trimmed) {
            self.add_anchor(title);
        }
        if trimmed.is_empty() {
            self.prose.push(String::new());
        }
        let paragraph = self.prose.last_mut().expect("there is one from the beginning");
        paragraph.push_str(line);
        paragraph.push('\n');
        None
    }

    fn add_anchor(&mut self, title: &str) {
        let first = anchor(title);
        let mut anchor = first.clone();
        let mut number = 0;
        while !self.anchors.insert(anchor) {
            number += 1;
            anchor = format!("{first}-{number}");
        }
    }

    fn folder(&self) -> &Path {
        self.path.parent().expect("a file is in a folder")
    }

    /// What is wrong with the page.
    fn faults(&self, root: &Path) -> Vec<String> {
        let mut faults = Vec::new();
        for paragraph in &self.prose {
            let (codes, text) = split_codes(paragraph);
            let links = targets(&text).into_iter().filter(|target| !is_elsewhere(target));
            faults.extend(links.filter_map(|link| Some(format!("{link}: {}", self.fault_of_link(root, link)?))));
            let paths = codes.into_iter().filter(|code| is_source_path(code));
            faults.extend(paths.filter(|path| !self.names(root, path)).map(|path| format!("{path}: no such file")));
        }
        let is_known = |line: &&String| DIAGRAMS.contains(&line.split_whitespace().next().unwrap_or_default());
        let diagrams = self.diagrams.iter().filter(|line| !is_known(line));
        faults.extend(diagrams.map(|line| format!("a diagram begins with `{line}`")));
        if self.is_open {
            faults.push("the last fenced block has no end".to_owned());
        }
        let page = self.path.strip_prefix(root).unwrap_or(&self.path).display();
        faults.into_iter().map(|fault| format!("{page}: {fault}")).collect()
    }

    fn fault_of_link(&self, root: &Path, link: &str) -> Option<&'static str> {
        let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
        let path = match file.strip_prefix('/') {
            _ if file.is_empty() => self.path.clone(),
            Some(file) => root.join(file),
            None => self.folder().join(file),
        };
        let Ok(path) = path.canonicalize() else { return Some("no such file") };
        if !path.starts_with(root) {
            return Some("outside of the repository");
        }
        let anchor = anchor?;
        if path.extension().is_none_or(|extension| extension != "md") {
            return Some("only pages have headings");
        }
        (!Self::read(&path).anchors.contains(anchor)).then_some("no such heading")
    }

    /// Whether there is a file of this path: from the root, from the page's folder, or from the sources of a crate, as in
    /// tables of one crate's files.
    fn names(&self, root: &Path, path: &str) -> bool {
        let sources = entries(root).into_iter().map(|folder| folder.join("src"));
        [root.to_owned(), self.folder().to_owned()].into_iter().chain(sources).any(|from| from.join(path).is_file())
    }
}

/// The run of backticks or tildes at the beginning of a line that begins or ends a block.
fn fence_of(line: &str) -> Option<&str> {
    let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let len = line.chars().take_while(|other| *other == mark).count();
    (len >= 3).then(|| &line[..len])
}

fn heading(line: &str) -> Option<&str> {
    let level = line.chars().take_while(|mark| *mark == '#').count();
    let title = line[level..].strip_prefix(' ')?;
    (1..=6).contains(&level).then(|| title.trim())
}

/// What GitHub makes of a heading for links to it.
fn anchor(title: &str) -> String {
    let kept = |letter: char| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => Some(letter).filter(|letter| letter.is_alphanumeric()),
    };
    title.to_lowercase().chars().filter_map(kept).collect()
}

/// The code spans of a paragraph, and the rest of its text.
fn split_codes(paragraph: &str) -> (Vec<&str>, String) {
    let (mut codes, mut text) = (Vec::new(), String::new());
    let mut rest = paragraph;
    while let Some(start) = rest.find('`') {
        text.push_str(&rest[..start]);
        let inside = rest[start..].trim_start_matches('`');
        let ticks = rest.len() - start - inside.len();
        // Where no run of as many ends the span, they are text.
        rest = match end_of_code(inside, ticks) {
            Some(end) => {
                codes.push(inside[..end].trim());
                &inside[end + ticks..]
            }
            None => inside,
        };
    }
    text.push_str(rest);
    (codes, text)
}

/// Where the first run of just `ticks` backticks begins.
fn end_of_code(inside: &str, ticks: usize) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = inside[from..].find('`') {
        let start = from + found;
        let len = inside[start..].chars().take_while(|tick| *tick == '`').count();
        if len == ticks {
            return Some(start);
        }
        from = start + len;
    }
    None
}

/// The targets of links and images: `[text](target)`, `[name]: target`, and attributes of HTML.
fn targets(text: &str) -> Vec<&str> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let definitions = text.lines().filter(|line| line.trim_start().starts_with('['));
    let definitions = definitions.filter_map(|line| line.split_once("]: ")).map(|(_, target)| target);
    let sources = text.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let references = text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let all = inline.chain(definitions).chain(sources).chain(references);
    // A title may follow the target.
    all.filter_map(|target| target.split_whitespace().next()).collect()
}

/// Whether a link leaves the repository for a site or a mailbox.
fn is_elsewhere(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

/// Whether a code span looks like the path of a source file or page, and holds no placeholder.
fn is_source_path(code: &str) -> bool {
    let is_plain = code.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-./".contains(letter));
    let extension = Path::new(code).extension();
    let is_source = extension.is_some_and(|extension| extension == "rs" || extension == "md");
    is_plain && is_source && code.contains('/') && !code.starts_with('/')
}

/// The files and folders in a folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("a folder that can be read").path()).collect();
    entries.sort();
    entries
}

/// The pages in a folder and in the folders in it.
fn pages_in(folder: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(|path| path.is_dir());
    let pages = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.chain(folders.iter().flat_map(|folder| pages_in(folder))).collect()
}

#[test]
fn links_diagrams_and_paths_in_the_pages_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository");
    let folders = FOLDERS.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir());
    let pages: Vec<_> = PAGES.iter().map(|page| root.join(page)).chain(folders.flat_map(|f| pages_in(&f))).collect();
    assert!(pages.len() > 20, "only {} pages were found", pages.len());
    let faults: Vec<_> = pages.iter().flat_map(|page| Page::read(page).faults(&root)).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn faults_in_a_page_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("the folder");
    fs::create_dir_all(root.join("node/src/session")).expect("a folder");
    fs::write(root.join("node/src/session/run.rs"), "").expect("a file");
    fs::write(root.join("other.md"), "# Other\n\n## A title, with `code`\n\n## Twice\n\n## Twice\n").expect("a file");
    let page = root.join("page.md");

    let right = "# Page\n\n[other](other.md), [`a` title](other.md#a-title-with-code), [second](other.md#twice-1),\n\
                 [here](#page), [site](https://example.org/missing.md), `](missing.md)`, ![folder](node/)\n\n\
                 Named: `node/src/session/run.rs`, `session/run.rs`, `node/src/<name>.rs`, `run.rs`, `a / b.rs`\n\n\
                 ```text\n[no link](missing.md) `node/missing.rs`\n```\n\n```mermaid\n%% a comment\n\nflowchart LR\n```\n";
    fs::write(&page, right).expect("a file");
    assert_eq!(Page::read(&page).faults(&root), Vec::<String>::new());

    for (wrong, fault) in [
        ("[x](missing.md)", "missing.md: no such file"),
        ("![x](missing.png)", "missing.png: no such file"),
        ("[x]: missing.md", "missing.md: no such file"),
        ("<img src=\"missing.png\">", "missing.png: no such file"),
        ("[x](/)\n[x](..)", "..: outside of the repository"),
        ("[x](other.md#thrice)", "other.md#thrice: no such heading"),
        ("[x](#nowhere)", "#nowhere: no such heading"),
        ("[x](node/src/session/run.rs#L1)", "node/src/session/run.rs#L1: only pages have headings"),
        ("`node/src/missing.rs`", "node/src/missing.rs: no such file"),
        ("`docs/missing.md`", "docs/missing.md: no such file"),
        ("```mermaid\ndrawing\n```", "a diagram begins with `drawing`"),
        ("```mermaid\nflowchart LR\n", "the last fenced block has no end"),
    ] {
        fs::write(&page, wrong).expect("a file");
        assert_eq!(Page::read(&page).faults(&root), [format!("page.md: {fault}")], "{wrong}");
    }
}
