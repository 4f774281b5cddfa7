//! Checks the texts of the repository: module docs, forbidden words, links, the tests that docs/LESSONS.md names, and
//! that the suite of each port stamps all of its contract functions.

use std::collections::BTreeSet;

use crate::files::Files;

/// Words that no file may contain, and why. They are split here, because the check reads this file, too.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "fix it, or open an issue"),
    (concat!("XX", "X"), "say what you mean"),
    (concat!("<<<<", "<<<"), "belongs to a merge that was not finished"),
    (concat!(">>>>", ">>>"), "belongs to a merge that was not finished"),
    (concat!("Co-", "authored-by"), "does not belong in a file"),
    (concat!("../", "shared"), "is outside of the repository"),
    (concat!("/wo", "rk/"), "is a path on one machine only"),
];

/// The rows that docs/LESSONS.md must have: a letter, and the highest number with it.
const LESSONS: &[(&str, u32)] = &[("L", 21), ("S", 19), ("E", 5)];

const LESSONS_PATH: &str = "docs/LESSONS.md";

/// The folder of the ports' suites.
const SUITES: &str = "crates/contract-tests/src/";

/// All findings about the files.
pub(crate) fn check(files: &Files) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in files {
        findings.extend(check_words(path, text));
        if has_extension(path, "rs") {
            findings.extend(check_module_docs(path, text));
            findings.extend(check_stamps(path, text, files));
        }
        if has_extension(path, "md") {
            findings.extend(check_links(path, text, files));
        }
    }
    findings.extend(check_lessons(files));
    findings
}

fn has_extension(path: &str, extension: &str) -> bool {
    std::path::Path::new(path).extension().is_some_and(|e| e == extension)
}

fn check_words(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (n, line) in (1..).zip(text.lines()) {
        for (word, why) in FORBIDDEN.iter().filter(|(word, _)| contains_word(line, word)) {
            findings.push(format!("{path}:{n}: `{word}`: {why}"));
        }
    }
    findings
}

/// Whether a line contains a whole word, not as a part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_whole = |at: usize| {
        let starts = word.starts_with(|c: char| c.is_ascii_alphanumeric());
        let ends = word.ends_with(|c: char| c.is_ascii_alphanumeric());
        !(starts && is_part(line[..at].chars().next_back()) || ends && is_part(line[at + word.len()..].chars().next()))
    };
    line.match_indices(word).any(|(at, _)| is_whole(at))
}

fn check_module_docs(path: &str, text: &str) -> Option<String> {
    (!text.starts_with("//! ")).then(|| format!("{path}:1: a module must begin with `//!` and say what it is"))
}

/// Finds contract functions that no adapter runs, because the macro of their suite does not list them.
fn check_stamps(path: &str, text: &str, files: &Files) -> Vec<String> {
    let Some(file) = path.strip_prefix(SUITES) else { return Vec::new() };
    // The macro is in `suite.rs`; contract functions are there, and in `suite/topic.rs`.
    let suite = file.split(['/', '.']).next().unwrap_or_default();
    let stamps = files.get(&format!("{SUITES}{suite}.rs")).map_or("", String::as_str);
    let declared = (1..).zip(text.lines()).filter_map(|(n, line)| {
        let (name, rest) = line.strip_prefix("pub async fn ")?.split_once('<')?;
        rest.contains(">()").then_some((n, name))
    });
    let missing = declared.filter(|(_, name)| !stamps.lines().any(|line| line.trim() == *name));
    missing.map(|(n, name)| format!("{path}:{n}: `{name}` is not in the macro of {SUITES}{suite}.rs")).collect()
}

fn check_links(path: &str, text: &str, files: &Files) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let leads_somewhere = |link: &str| {
        let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if target.is_empty() { Some(path.to_owned()) } else { resolve(folder, target) };
        target.is_some_and(|target| match files.get(&target) {
            Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
            None => target.is_empty() || files.keys().any(|file| file.starts_with(&format!("{target}/"))),
        })
    };
    let broken = links(text).filter(|(_, link)| !leads_somewhere(link));
    broken.map(|(n, link)| format!("{path}:{n}: broken link: `{link}`")).collect()
}

/// The links of a Markdown text to places in the repository, each with its line.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(n, line)| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        let is_inside = |target: &&str| !target.contains("://") && !target.starts_with("mailto:");
        targets.filter(is_inside).map(move |target| (n, target))
    })
}

/// The lines of a Markdown text outside of code blocks, counted from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The path, from the root, to which a relative link leads. `None` if it is outside of the repository.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The anchors that GitHub gives to the headings of a text.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter_map(|(_, line)| line.strip_prefix('#')).map(|rest| rest.trim_start_matches('#'));
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    headings.map(|heading| heading.trim().chars().filter_map(kept).collect()).collect()
}

fn check_lessons(files: &Files) -> Vec<String> {
    let Some(text) = files.get(LESSONS_PATH) else { return vec![format!("{LESSONS_PATH}: is missing")] };
    let rows: Vec<(&str, &str)> = text.lines().filter_map(lesson).collect();
    let wanted = LESSONS.iter().flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}")));
    let mut findings = Vec::new();
    for id in wanted {
        match rows.iter().filter(|(row, _)| *row == id).collect::<Vec<_>>()[..] {
            [(_, shown_by)] => findings.extend(check_lesson(&id, shown_by, files)),
            ref rows => findings.push(format!("{LESSONS_PATH}: {id} has {} rows instead of one", rows.len())),
        }
    }
    findings
}

/// The number of a lesson, and the last cell of its row, which names its tests.
fn lesson(line: &str) -> Option<(&str, &str)> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let id = *cells.first()?;
    let is_row = LESSONS.iter().any(|(letter, _)| id.strip_prefix(letter).is_some_and(|n| n.parse::<u32>().is_ok()));
    is_row.then_some((id, *cells.last()?))
}

fn check_lesson(id: &str, shown_by: &str, files: &Files) -> Vec<String> {
    let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).filter(|name| is_test_name(name)).collect();
    if names.is_empty() && !shown_by.starts_with("open: ") {
        return vec![format!("{LESSONS_PATH}: {id} names no test; name one, or say `open: ...`")];
    }
    // The tests of port suites are generic over their fixture.
    let exists = |name: &str| {
        let definitions = [format!("fn {name}("), format!("fn {name}<")];
        let defines = |text: &str| definitions.iter().any(|definition| text.contains(definition));
        files.iter().any(|(path, text)| has_extension(path, "rs") && defines(text))
    };
    let missing = names.into_iter().filter(|name| !exists(name));
    missing.map(|name| format!("{LESSONS_PATH}: {id} names `{name}`, but there is no such test")).collect()
}

/// Whether a text looks like the name of a test: a sentence with `_` between its words.
fn is_test_name(text: &str) -> bool {
    text.matches('_').count() >= 2 && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(extra: &[(&str, &str)]) -> Files {
        let ids = LESSONS.iter().flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}")));
        let rows: Vec<_> = ids.map(|id| format!("| {id} | a mistake | `nobody_is_lost` |")).collect();
        let mut files = Files::new();
        files.insert(LESSONS_PATH.into(), rows.join("\n"));
        files.insert("a.rs".into(), "//! A.\npub async fn nobody_is_lost<F: Fixture>() {}".into());
        files.extend(extra.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
        files
    }

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&files(&[(path, text)]))
    }

    #[test]
    fn tidy_files_are_fine() {
        assert_eq!(check(&files(&[])), Vec::<String>::new());
    }

    #[test]
    fn a_module_without_docs_is_found() {
        assert_eq!(findings("b.rs", "fn b() {}").len(), 1);
        assert_eq!(findings("b.rs", "").len(), 1);
    }

    #[test]
    fn forbidden_words_are_found_only_as_whole_words() {
        for (word, _) in FORBIDDEN {
            assert_eq!(findings("b.yml", &format!("# {word}: later")).len(), 1, "{word}");
        }
        assert_eq!(findings("b.yml", concat!("MAS", "TO", "DON AUTO", "DO_")), Vec::<String>::new());
    }

    #[test]
    fn contract_functions_that_no_adapter_runs_are_found() {
        let topic = "//! A.\npub async fn nothing_is_lost<F: Fixture>() {}\npub async fn run<F>(f: F) {}";
        let n_findings = |stamp: &str| {
            let suite = format!("//! B.\n    {stamp}\n");
            let suite = ("crates/contract-tests/src/port.rs", suite.as_str());
            check(&files(&[suite, ("crates/contract-tests/src/port/topic.rs", topic)])).len()
        };

        assert_eq!(n_findings("nothing_is_lost"), 0);
        assert_eq!(n_findings("nothing_is_found"), 1);
    }

    #[test]
    fn broken_links_are_found() {
        for link in ["missing.md", "../../outside.md", "b.md#no-such-heading", "#no-such-heading", "missing/"] {
            assert_eq!(findings("docs/b.md", &format!("# B\nSee [it]({link}).")).len(), 1, "{link}");
        }
    }

    #[test]
    fn links_to_files_folders_headings_and_elsewhere_are_fine() {
        for link in
            ["../a.rs", "LESSONS.md", "../docs/", "..", "#a-heading-or-2", "b.md#a-heading-or-2", "https://e.org/x"]
        {
            let text = format!("## A `heading`, or 2\nSee [it]({link}).\n```\n[no](link)\n```");
            assert_eq!(findings("docs/b.md", &text), Vec::<String>::new(), "{link}");
        }
    }

    #[test]
    fn a_lesson_that_is_missing_duplicate_or_without_a_test_is_found() {
        let fine = files(&[])[LESSONS_PATH].clone();
        for (text, wanted) in [
            (fine.replace("| S3 |", "| S33 |"), "S3 has 0 rows"),
            (fine.replace("| S3 |", "| S4 |"), "S4 has 2 rows"),
            (fine.replacen("nobody_is_lost", "no_such_test", 1), "there is no such test"),
            (fine.replacen("`nobody_is_lost`", "looked at", 1), "names no test"),
        ] {
            let findings = findings(LESSONS_PATH, &text);
            assert!(findings.iter().any(|finding| finding.contains(wanted)), "{wanted}: {findings:?}");
        }
    }

    #[test]
    fn a_lesson_may_be_open() {
        let text = files(&[])[LESSONS_PATH].replacen("`nobody_is_lost`", "open: comes with Redis", 1);

        assert_eq!(findings(LESSONS_PATH, &text), Vec::<String>::new());
    }

    #[test]
    fn a_missing_file_of_lessons_is_found() {
        let mut files = files(&[]);
        files.remove(LESSONS_PATH);

        assert_eq!(check(&files).len(), 1);
    }
}
