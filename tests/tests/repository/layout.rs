//! The crates' files import each other in one direction: no circle but of a module and its child.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};
use syn::{
    Attribute, ItemMod, ItemUse, UseTree, Visibility,
    visit::{self, Visit},
};

/// A file as its module's path from the crate's root, which is empty itself.
type Module = Vec<String>;

/// Modules of tests and of the fuzzer: what they import says nothing of the program.
const ASIDE: [&str; 5] = ["tests", "fuzzed", "fuzzing", "linkability", "vectors"];

/// The paths that a file imports or names, from the crate's root.
struct Paths<'a> {
    module: &'a [String],
    found: BTreeSet<Module>,
}

impl Paths<'_> {
    fn add(&mut self, segments: &[String]) {
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        let path = match segments.first().map(String::as_str) {
            Some("crate") => segments[1..].to_vec(),
            Some("self") => [self.module, &segments[1..]].concat(),
            Some("super") if supers <= self.module.len() => {
                [&self.module[..self.module.len() - supers], &segments[supers..]].concat()
            }
            // A child's name, or another crate's.
            _ => [self.module, segments].concat(),
        };
        self.found.insert(path);
    }

    fn add_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.add(&with(&name.ident)),
            UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let is_test = |attribute: &Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
        };
        if !item.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if matches!(segments[0].as_str(), "crate" | "super") {
            self.add(&segments);
        }
        visit::visit_path(self, path);
    }
}

fn files(folder: &Path, module: &Module, found: &mut BTreeMap<Module, PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
        if ASIDE.contains(&name.as_str()) {
            continue;
        }
        let inner = if name == "lib" { module.clone() } else { [&module[..], &[name]].concat() };
        if path.is_dir() {
            files(&path, &inner, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(inner, path);
        }
    }
}

/// The circles of a crate's files, each sorted, but those of a module and its children.
fn circles(src: &Path) -> Vec<Vec<String>> {
    let mut modules = BTreeMap::new();
    files(src, &Vec::new(), &mut modules);
    let mut imports = DiGraphMap::<&str, ()>::new();
    let names: BTreeMap<&Module, String> = modules.keys().map(|module| (module, module.join("/"))).collect();
    for (module, path) in &modules {
        let file = syn::parse_file(&fs::read_to_string(path).expect("a file")).expect("Rust");
        let mut paths = Paths { module, found: BTreeSet::new() };
        paths.visit_file(&file);
        for mut path in paths.found {
            // What isn't a file stands in one.
            while !path.is_empty() && !modules.contains_key(&path) {
                path.pop();
            }
            if path != *module && !path.is_empty() {
                imports.add_edge(&names[module], &names[&path], ());
            }
        }
    }
    let is_family = |circle: &[&str]| {
        let parent = circle.iter().min_by_key(|name| name.len()).expect("not empty");
        circle.iter().all(|name| name == parent || name.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/')))
    };
    let circles = tarjan_scc(&imports).into_iter().filter(|circle| circle.len() > 1 && !is_family(circle));
    circles
        .map(|circle| {
            let mut circle: Vec<_> = circle.into_iter().map(str::to_owned).collect();
            circle.sort();
            circle
        })
        .collect()
}

#[test]
fn no_file_imports_one_that_imports_it_but_a_module_and_its_children() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tools = fs::read_dir(root.join("tools")).expect("a folder");
    let tools = tools.map(|tool| format!("tools/{}", tool.expect("an entry").file_name().to_str().expect("UTF-8")));
    // The simulator's world is one struct, whose methods are in many files.
    let tools = tools.filter(|tool| tool != "tools/simulator");
    let crates =
        ["common", "discovery", "client", "turn", "node", "bootstrap", "cli", "testkit", "xtask"].map(str::to_owned);
    for name in crates.into_iter().chain(tools) {
        let found = circles(&root.join(&name).join("src"));
        for circle in &found {
            println!("{name}: a circle of {} files: {}", circle.len(), circle.join(", "));
        }
        assert_eq!(found, Vec::<Vec<String>>::new(), "in {name}");
    }
}
