//! The allowed dependencies between modules of the app, as data, and the functions that check its sources against them.
//!
//! An arrow is a path in one file that leads to another file. It begins with `crate`, `self`, `super` or a child
//! module, and is part of a `use` item, of code, of a macro or of a test. Tokens are enough to find it, so the check
//! needs no parser.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use crate::files::Files;

/// Rows of a module and the modules that it may use. A row also covers the modules beneath its own. If other rows name
/// some of these, it covers only its own file.
type Rules = &'static [(&'static str, &'static [&'static str])];

const APP: &str = "crates/app/src/";
const LIBRARY: &str = "usher_app";

/// Every module of the app.
const RULES: Rules = &[
    ("crate", &[]),
    ("main", &["cli"]),
    ("cli", &["composition", "config", "demo", "durable", "http::openapi", "identity", "runtime"]),
    (
        "composition",
        &[
            "bridge",
            "config",
            "decorators",
            "demo",
            "durable",
            "http",
            "http::detached",
            "http::edge",
            "http::services",
            "identity",
            "live",
            "runtime",
        ],
    ),
    ("bridge", &[]),
    ("demo", &[]),
    ("durable", &["config", "runtime"]),
    ("config", &[]),
    ("identity", &[]),
    ("runtime", &["config"]),
    ("decorators", &["runtime"]),
    ("live", &["runtime"]),
    // The rows of `http`, from the highest layer to the lowest.
    (
        "http",
        &[
            "http::api",
            "http::bearer",
            "http::edge",
            "http::openapi",
            "http::services",
            "http::swagger_ui",
            "live",
            "runtime",
        ],
    ),
    ("http::openapi", &["http::api", "http::problem"]),
    (
        "http::api",
        &[
            "http::answers",
            "http::bearer",
            "http::detached",
            "http::edge",
            "http::paging",
            "http::problem",
            "http::reading",
            "http::services",
            "http::sse",
            "http::values",
            "identity",
            "live",
            "runtime",
        ],
    ),
    ("http::services", &["http::detached", "http::edge", "identity", "live", "runtime"]),
    ("http::edge", &["config", "http::problem", "http::reading", "http::throttle", "runtime"]),
    ("http::answers", &["http::problem", "live"]),
    ("http::bearer", &["http::problem", "identity"]),
    ("http::detached", &["http::problem", "live", "runtime"]),
    ("http::paging", &["http::problem"]),
    ("http::reading", &["http::problem", "identity"]),
    ("http::throttle", &["http::problem"]),
    ("http::problem", &["http::values", "live"]),
    ("http::sse", &[]),
    ("http::swagger_ui", &["http::problem"]),
    ("http::values", &[]),
];

/// A dependency of one file on another, by the names of their modules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: String,
    to: String,
}

/// All findings about the modules of the app.
pub(crate) fn check(files: &Files) -> Vec<String> {
    check_against(RULES, files)
}

fn check_against(rules: Rules, files: &Files) -> Vec<String> {
    let mut findings = Vec::new();
    let mut sources = BTreeMap::new();
    for (path, text) in files {
        let Some(module) = module_of(path) else { continue };
        match text.parse::<TokenStream>() {
            Ok(tokens) => drop(sources.insert(module, tokens)),
            Err(error) => findings.push(format!("{path}: is not valid Rust: {error}")),
        }
    }
    let modules: BTreeSet<String> = sources.keys().cloned().collect();
    let arrows: BTreeSet<Arrow> =
        sources.into_iter().flat_map(|(module, tokens)| arrows_of(&module, tokens, &modules)).collect();
    findings.extend(check_rows(rules, &modules));
    findings.extend(check_arrows(rules, &arrows));
    findings.extend(check_unused(rules, &arrows));
    findings.extend(check_circles(&arrows));
    findings
}

/// The name of the module in a file of the app. The library's root is `crate`.
fn module_of(path: &str) -> Option<String> {
    let path = path.strip_prefix(APP)?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    Some(if path == "lib" { "crate".into() } else { path.replace('/', "::") })
}

fn is_beneath(module: &str, above: &str) -> bool {
    module.strip_prefix(above).is_some_and(|rest| rest.starts_with("::"))
}

/// The row that covers a module.
fn row_of(rules: Rules, module: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let covers = |row: &str| {
        let has_rows_beneath = rules.iter().any(|(other, _)| is_beneath(other, row));
        row == module || (!has_rows_beneath && is_beneath(module, row))
    };
    rules.iter().find(|(row, _)| covers(row))
}

/// Rules that no arrow needs: a module may use another one, and does not.
fn check_unused(rules: Rules, arrows: &BTreeSet<Arrow>) -> Vec<String> {
    let name = |module: &str| row_of(rules, module).map(|(row, _)| *row);
    let used: BTreeSet<_> = arrows.iter().map(|Arrow { from, to }| (name(from), name(to))).collect();
    let allowed = rules.iter().flat_map(|(from, may_use)| may_use.iter().map(move |to| (*from, *to)));
    let unused = allowed.filter(|(from, to)| !used.contains(&(Some(*from), Some(*to))));
    unused.map(|(from, to)| format!("{from} may use {to}, but does not")).collect()
}

fn check_rows(rules: Rules, modules: &BTreeSet<String>) -> Vec<String> {
    let strangers = modules.iter().filter(|module| row_of(rules, module).is_none());
    let strangers = strangers.map(|module| format!("{module}: has no row in crates/xtask/src/wings.rs"));
    let is_there = |row: &str| modules.iter().any(|module| module == row || is_beneath(module, row));
    let missing = rules.iter().filter(|(row, _)| !is_there(row));
    strangers.chain(missing.map(|(row, _)| format!("{row}: has a row but does not exist"))).collect()
}

fn check_arrows(rules: Rules, arrows: &BTreeSet<Arrow>) -> Vec<String> {
    let is_against = |Arrow { from, to }: &&Arrow| match (row_of(rules, from), row_of(rules, to)) {
        (Some((from, may_use)), Some((to, _))) => from != to && !may_use.contains(to),
        // `check_rows` reports these.
        (None, _) | (_, None) => false,
    };
    arrows.iter().filter(is_against).map(|Arrow { from, to }| format!("{from} must not use {to}")).collect()
}

/// Reports every arrow that is part of a circle.
fn check_circles(arrows: &BTreeSet<Arrow>) -> Vec<String> {
    let leads_back = |arrow: &&Arrow| reached_from(&arrow.to, arrows).contains(arrow.from.as_str());
    let circular = arrows.iter().filter(leads_back);
    circular.map(|Arrow { from, to }| format!("{from} uses {to}, which leads back to it")).collect()
}

/// A module, and all modules that it uses directly or indirectly.
fn reached_from<'a>(start: &'a str, arrows: &'a BTreeSet<Arrow>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::from([start]);
    let mut to_follow = vec![start];
    while let Some(module) = to_follow.pop() {
        let uses = arrows.iter().filter(|arrow| arrow.from == module).map(|arrow| arrow.to.as_str());
        to_follow.extend(uses.filter(|used| reached.insert(used)));
    }
    reached
}

/// The other files that a file uses.
fn arrows_of(module: &str, tokens: TokenStream, modules: &BTreeSet<String>) -> BTreeSet<Arrow> {
    let file: Vec<String> = module.split("::").filter(|name| *name != "crate").map(str::to_owned).collect();
    let mut paths = Vec::new();
    collect_paths(tokens, &file, &mut paths);
    let used = paths.into_iter().filter_map(|(scope, path)| resolve(&file, &scope, &path, modules));
    let arrows = used.filter(|used| used != module).map(|to| Arrow { from: module.into(), to });
    arrows.collect()
}

/// The file to which a path leads, if it is one of the app's. `scope`: the module that contains the path.
fn resolve(file: &[String], scope: &[String], path: &[String], modules: &BTreeSet<String>) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let mut at: Vec<&str> = match first.as_str() {
        "crate" | LIBRARY => Vec::new(),
        "self" => scope.iter().map(String::as_str).collect(),
        "super" => scope.iter().map(String::as_str).take(scope.len().checked_sub(1)?).collect(),
        // A child of the file's module, or a name from elsewhere.
        child => {
            let names: Vec<&str> = file.iter().map(String::as_str).chain([child]).collect();
            modules.contains(&names.join("::")).then_some(names)?
        }
    };
    for name in rest {
        match name.as_str() {
            "super" => drop(at.pop()?),
            name => at.push(name),
        }
    }
    let is_module = |len: &usize| modules.contains(&at[..*len].join("::"));
    let longest = (1..=at.len()).rev().find(is_module);
    Some(longest.map_or_else(|| "crate".into(), |len| at[..len].join("::")))
}

/// Collects all paths of two or more names, each after the module that contains it.
fn collect_paths(tokens: TokenStream, scope: &[String], paths: &mut Vec<(Vec<String>, Vec<String>)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match (token, tokens.get(at + 1), tokens.get(at + 2)) {
            (TokenTree::Ident(word), Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) if word == "mod" => {
                let inner = [scope, &[name.to_string()]].concat();
                collect_paths(body.stream(), &inner, paths);
                at += 3;
            }
            (TokenTree::Ident(_), ..) => {
                let mut found = Vec::new();
                at += collect_tree(&tokens[at..], &[], &mut found);
                paths.extend(found.into_iter().map(|path| (scope.to_vec(), path)));
            }
            (TokenTree::Group(group), ..) => {
                if !is_visibility(group) {
                    collect_paths(group.stream(), scope, paths);
                }
                at += 1;
            }
            // Skips `::` after generic arguments: the name after it is not a path of its own.
            _ if is_separator(&tokens[at..]) => at += 3,
            _ => at += 1,
        }
    }
}

/// Reads the path at the start of `tokens`, with all branches of a `use` tree. Returns how many tokens belong to it.
fn collect_tree(tokens: &[TokenTree], above: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = above.to_vec();
    let mut at = 0;
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => {
                if above.is_empty() || name != "self" {
                    path.push(name.to_string());
                }
                at += 1;
            }
            Some(TokenTree::Group(branches)) if branches.delimiter() == Delimiter::Brace => {
                let branches: Vec<TokenTree> = branches.stream().into_iter().collect();
                let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
                for branch in branches.split(is_comma) {
                    collect_tree(branch, &path, paths);
                }
                return at + 1;
            }
            // A glob import of a module.
            Some(TokenTree::Punct(mark)) if mark.as_char() == '*' && !path.is_empty() => {
                paths.push(path);
                return at + 1;
            }
            _ => break,
        }
        if !is_separator(&tokens[at..]) {
            break;
        }
        at += 2;
    }
    // A single name is local, and a trailing comma has no path after it.
    if at > 0 && (path.len() > 1 || !above.is_empty()) {
        paths.push(path);
    }
    at
}

/// Whether a group belongs to `pub(in path)`, which uses no module.
fn is_visibility(group: &Group) -> bool {
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Parenthesis && matches!(first, Some(TokenTree::Ident(word)) if word == "in")
}

/// Whether tokens begin with `::`.
fn is_separator(tokens: &[TokenTree]) -> bool {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ':');
    tokens.len() >= 2 && tokens[..2].iter().all(is_colon)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: Rules = &[("crate", &[]), ("a", &["b"]), ("b", &[]), ("c", &["c::x"]), ("c::x", &[]), ("c::y", &["b"])];

    /// The findings about a library with one file for each row and one path for each rule, and these texts besides.
    fn findings(texts: &[(&str, &str)]) -> Vec<String> {
        let mut files = Files::new();
        let fine = [
            ("lib.rs", ""),
            ("a/mod.rs", "use crate::b::B;"),
            ("b.rs", ""),
            ("c/mod.rs", "mod x;\nuse self::x::X;"),
            ("c/x.rs", ""),
            ("c/y.rs", "use crate::b::B;"),
        ];
        for (path, text) in fine.iter().chain(texts) {
            files.entry(format!("{APP}{path}")).or_default().push_str(&format!("{text}\n"));
        }
        check_against(ROWS, &files)
    }

    #[test]
    fn arrows_of_the_rules_are_fine() {
        let files = [
            ("lib.rs", "//! The root.\npub mod a;\npub mod b;\npub mod c;"),
            ("a/mod.rs", "use crate::b::{self, B};\nmod tests { use super::*; }"),
            ("a/beneath.rs", "use std::fmt;\nuse crate::b::B;"),
            ("c/mod.rs", "mod x;\npub use self::x::X;\nfn f() { x::g(); }"),
            (
                "c/y.rs",
                "//! See [`crate::a`].\nconst TEXT: &str = \"crate::a::A\"; // crate::a::A\npub(super) fn f() {}\npub(in crate::c) fn g() {}",
            ),
        ];

        assert_eq!(findings(&files), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_outside_of_the_rules_is_found_wherever_it_is_written() {
        for text in [
            "use crate::a::A;",
            "use crate::{b::B, a};",
            "use crate::{b::{self, B}, a::{A, C},};",
            "use crate::a::*;",
            "use super::super::a::A;",
            "fn f() -> crate::a::A { todo() }",
            "fn f() { g(&[crate::a::C]); }",
            "fn f() { g::<crate::a::A>() }",
            "fn f() { assert!(matches!(g(), Some(crate::a::A { .. }))); }",
            "macro_rules! m { () => { $crate::a::f() }; }",
            "mod tests { use super::super::super::a::A; }",
            "mod tests { mod deeper { use crate::a::A as B; } }",
            "impl From<crate::a::A> for B {}",
            "#[cfg(test)]\nuse usher_app::a::A;",
        ] {
            assert_eq!(findings(&[("c/y.rs", text)]), ["c::y must not use a"], "{text}");
        }
    }

    #[test]
    fn a_rule_that_no_file_needs_is_found() {
        let files = [("a.rs", "use crate::b::B;"), ("b.rs", "")];
        let files = files.map(|(path, text)| (format!("{APP}{path}"), text.to_owned()));

        let findings = check_against(&[("a", &["b"]), ("b", &["a"])], &files.into());

        assert_eq!(findings, ["b may use a, but does not"]);
    }

    #[test]
    fn a_child_module_is_used_by_its_name() {
        assert_eq!(findings(&[("c/mod.rs", "mod x;\nmod y;\nfn f() { y::g(); }")]), ["c must not use c::y"]);
        assert_eq!(findings(&[("c/mod.rs", "mod x;\nmod y;\npub use self::y::Y;")]), ["c must not use c::y"]);
    }

    #[test]
    fn a_child_module_must_not_use_its_parent_without_a_rule() {
        // `c` uses `c::x`, which would be a circle as well; it does not use `c::y`.
        assert_eq!(findings(&[("c/y.rs", "use super::C;")]), ["c::y must not use c"]);
        assert_eq!(findings(&[("b.rs", "use crate::Error;")]), ["b must not use crate"]);
    }

    #[test]
    fn a_module_without_a_row_and_a_row_without_a_module_are_found() {
        assert_eq!(findings(&[("utils.rs", "")]), ["utils: has no row in crates/xtask/src/wings.rs"]);
        assert_eq!(findings(&[("c/z.rs", "")]), ["c::z: has no row in crates/xtask/src/wings.rs"]);
        assert_eq!(findings(&[("c/x/beneath.rs", "")]), Vec::<String>::new());

        let without_b = Files::from([(format!("{APP}lib.rs"), String::new()), (format!("{APP}a.rs"), String::new())]);
        let findings = check_against(&[("crate", &[]), ("a", &[]), ("b", &[])], &without_b);
        assert_eq!(findings, ["b: has a row but does not exist"]);
    }

    #[test]
    fn circles_between_files_are_found_inside_a_module_too() {
        let files = [
            ("a/mod.rs", "use self::x::X;"),
            ("a/x.rs", "use super::y::Y;"),
            ("a/y.rs", "use super::A;"),
            ("a/z.rs", "use super::A;"),
        ];

        let wanted =
            ["a uses a::x", "a::x uses a::y", "a::y uses a"].map(|arrow| format!("{arrow}, which leads back to it"));
        assert_eq!(findings(&files), wanted);
    }

    #[test]
    fn a_circle_between_modules_is_found_even_if_the_rules_allow_each_arrow() {
        let files = [("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")];
        let files = files.map(|(path, text)| (format!("{APP}{path}"), text.to_owned()));

        let findings = check_against(&[("a", &["b"]), ("b", &["a"])], &files.into());

        assert_eq!(findings, ["a uses b, which leads back to it", "b uses a, which leads back to it"]);
    }

    #[test]
    fn a_file_that_is_not_valid_rust_is_found() {
        let findings = findings(&[("b.rs", "fn f( {")]);

        assert!(findings[0].contains("crates/app/src/b.rs: is not valid Rust"), "{findings:?}");
    }

    #[test]
    fn the_rules_name_each_module_once_and_have_no_circle() {
        let rows: BTreeSet<&str> = RULES.iter().map(|(row, _)| *row).collect();
        let arrow = |from: &str, to: &str| Arrow { from: from.into(), to: to.into() };
        let arrows = RULES.iter().flat_map(|(from, may_use)| may_use.iter().map(move |to| arrow(from, to)));
        let arrows: BTreeSet<Arrow> = arrows.collect();

        assert_eq!(rows.len(), RULES.len());
        assert!(arrows.iter().all(|arrow| rows.contains(arrow.to.as_str())));
        assert_eq!(check_circles(&arrows), Vec::<String>::new());
    }
}
