//! The allowed dependencies between crates, as data, and the functions that check a workspace against them.

use std::error::Error;
use std::fs;

use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use toml::{Table, Value};

use Layer::{Adapter, App, Bench, ContractTests, Domain, Kernel, LoadTest, Migrations, TestServers, Xtask};

/// The layer of a crate, which decides what the crate may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Kernel,
    Domain,
    Adapter,
    Migrations,
    ContractTests,
    App,
    LoadTest,
    Bench,
    TestServers,
    Xtask,
}

/// Every crate of the workspace.
const CRATES: &[(&str, Layer)] = &[
    ("usher-account", Domain),
    ("usher-adapter-memory", Adapter),
    ("usher-adapter-redis", Adapter),
    ("usher-adapter-sql", Adapter),
    ("usher-app", App),
    ("usher-bench", Bench),
    ("usher-concert", Domain),
    ("usher-contract-tests", ContractTests),
    ("usher-kernel", Kernel),
    ("usher-loadtest", LoadTest),
    ("usher-migrations", Migrations),
    ("usher-queue", Domain),
    ("usher-reservation", Domain),
    ("usher-test-servers", TestServers),
    ("xtask", Xtask),
];

/// Which layer may use which. Domains do not use each other: a domain that needs another one has a port for it, and the
/// app bridges the two.
const ARROWS: &[(Layer, Layer)] = &[
    (Adapter, Domain),
    (Adapter, Kernel),
    (App, Adapter),
    (App, Domain),
    (App, Kernel),
    (App, Migrations),
    (Bench, Adapter),
    (Bench, App),
    (Bench, ContractTests),
    (Bench, Domain),
    (Bench, Kernel),
    (Bench, LoadTest),
    (Bench, TestServers),
    (ContractTests, Domain),
    (ContractTests, Kernel),
    (Domain, Kernel),
    (LoadTest, Domain),
    (LoadTest, Kernel),
    (LoadTest, TestServers),
];

/// Which layer may also use which in tests.
const TEST_ARROWS: &[(Layer, Layer)] = &[
    (Adapter, ContractTests),
    (Adapter, Migrations),
    (Adapter, TestServers),
    (App, ContractTests),
    (App, TestServers),
    (Migrations, TestServers),
];

/// All external packages that these crates may use. No serde and no runtime: rules are plain values.
const PACKAGES: &[(&str, &[&str])] = &[
    ("usher-account", &["async-trait", "thiserror", "tracing"]),
    ("usher-concert", &["async-trait", "thiserror", "tracing"]),
    ("usher-kernel", &["thiserror", "uuid"]),
    (
        "usher-queue",
        &[
            "arc-swap",
            "async-trait",
            "base64",
            "futures-util",
            "hkdf",
            "hmac",
            "roaring",
            "sha2",
            "subtle",
            "thiserror",
            "tracing",
        ],
    ),
    ("usher-reservation", &["async-trait", "thiserror", "tracing"]),
];

/// The packages that the crates of [`PACKAGES`] may also use in tests.
const TEST_PACKAGES: &[&str] = &["mockall", "proptest", "tokio"];

/// Packages that only some crates may use, in tests too.
const EXCLUSIVE: &[(&str, &[&str])] = &[
    ("actix-web", &["usher-app"]),
    ("fred", &["usher-adapter-redis"]),
    // Only the error paths of services are tested with mocked ports. All other tests use a real adapter.
    ("mockall", &["usher-account", "usher-concert", "usher-queue", "usher-reservation"]),
    ("paperclip", &["usher-app"]),
    ("sea-orm", &["usher-adapter-sql"]),
    ("sea-orm-migration", &["usher-migrations"]),
    ("usher-migrations", &["usher-adapter-sql", "usher-app"]),
];

/// A crate as its files describe it.
#[derive(Clone, Debug)]
pub(crate) struct Crate {
    name: String,
    /// Its folder, from the root of the checkout.
    folder: String,
    dependencies: Vec<Dependency>,
    manifest: Table,
    /// The first paragraph of its root module's docs.
    invariant: String,
}

#[derive(Clone, Debug)]
struct Dependency {
    name: String,
    kind: DependencyKind,
}

/// The files that the checks read.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    crates: Vec<Crate>,
    /// `docs/ARCHITECTURE.md`, whose table repeats the invariant of each crate.
    architecture: String,
}

/// Reads the workspace in `root`.
pub(crate) fn read(root: &str) -> Result<Workspace, Box<dyn Error>> {
    let metadata = MetadataCommand::new().manifest_path(format!("{root}/Cargo.toml")).no_deps().exec()?;
    let folder_of = |package: &Package| -> Result<String, Box<dyn Error>> {
        let folder = package.manifest_path.parent().ok_or("the manifest is in no folder")?;
        Ok(folder.strip_prefix(&metadata.workspace_root)?.to_string())
    };
    let crates = metadata.packages.iter().map(|package| {
        let is_root =
            |kind: &str| package.targets.iter().find(move |target| target.kind.iter().any(|k| k.to_string() == kind));
        let target =
            is_root("lib").or_else(|| is_root("bin")).ok_or("the crate has neither a library nor a program")?;
        let dependency = |d: &cargo_metadata::Dependency| Dependency { name: d.name.clone(), kind: d.kind };
        Ok(Crate {
            name: package.name.to_string(),
            folder: folder_of(package)?,
            dependencies: package.dependencies.iter().map(dependency).collect(),
            manifest: fs::read_to_string(&package.manifest_path)?.parse()?,
            invariant: first_paragraph(&fs::read_to_string(&target.src_path)?),
        })
    });
    Ok(Workspace {
        crates: crates.collect::<Result<_, Box<dyn Error>>>()?,
        architecture: fs::read_to_string(format!("{root}/docs/ARCHITECTURE.md"))?,
    })
}

/// The first paragraph of a module's docs, on one line.
fn first_paragraph(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// All findings about a workspace.
pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut findings = check_members(&workspace.crates);
    for krate in &workspace.crates {
        findings.extend(check_arrows(krate));
        findings.extend(check_packages(krate));
        findings.extend(check_exclusive(krate));
        findings.extend(check_manifest(krate));
        findings.extend(check_invariant(krate, &workspace.architecture));
    }
    findings
}

fn layer(name: &str) -> Option<Layer> {
    CRATES.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

fn check_members(crates: &[Crate]) -> Vec<String> {
    let strangers = crates.iter().filter(|krate| layer(&krate.name).is_none());
    let strangers =
        strangers.map(|krate| format!("{}: has no layer; add it in crates/xtask/src/arrows.rs", krate.name));
    let missing = CRATES.iter().filter(|(name, _)| crates.iter().all(|krate| krate.name != *name));
    strangers.chain(missing.map(|(name, _)| format!("{name}: has a layer but does not exist"))).collect()
}

fn check_arrows(krate: &Crate) -> Vec<String> {
    let Some(from) = layer(&krate.name) else { return Vec::new() };
    let internal = krate.dependencies.iter().filter_map(|d| layer(&d.name).map(|to| (d, to)));
    let is_allowed =
        |kind, arrow| ARROWS.contains(&arrow) || (kind == DependencyKind::Development && TEST_ARROWS.contains(&arrow));
    internal
        .filter(|(d, to)| !is_allowed(d.kind, (from, *to)))
        .map(|(d, to)| format!("{} ({from:?}) must not use {} ({to:?}){}", krate.name, d.name, purpose(d.kind)))
        .collect()
}

const fn purpose(kind: DependencyKind) -> &'static str {
    match kind {
        DependencyKind::Development => " in tests",
        DependencyKind::Build => " to build itself",
        _ => "",
    }
}

fn check_packages(krate: &Crate) -> Vec<String> {
    let Some((_, allowed)) = PACKAGES.iter().find(|(name, _)| *name == krate.name) else { return Vec::new() };
    let external = krate.dependencies.iter().filter(|d| layer(&d.name).is_none());
    let is_allowed = |d: &Dependency| {
        allowed.contains(&d.name.as_str())
            || (d.kind == DependencyKind::Development && TEST_PACKAGES.contains(&d.name.as_str()))
    };
    external
        .filter(|d| !is_allowed(d))
        .map(|d| format!("{} must not use {}{}: it is not in the crate's list", krate.name, d.name, purpose(d.kind)))
        .collect()
}

fn check_exclusive(krate: &Crate) -> Vec<String> {
    let owners_of = |d: &Dependency| EXCLUSIVE.iter().find(|(name, _)| *name == d.name).map(|(_, owners)| *owners);
    let foreign = krate.dependencies.iter().filter_map(|d| owners_of(d).map(|owners| (d, owners)));
    foreign
        .filter(|(_, owners)| !owners.contains(&krate.name.as_str()))
        .map(|(d, owners)| format!("{} must not use {}: only {} may", krate.name, d.name, owners.join(", ")))
        .collect()
}

fn check_manifest(krate: &Crate) -> Vec<String> {
    let is_inherited = |value: Option<&Value>| {
        value.and_then(|value| value.get("workspace")).and_then(Value::as_bool).unwrap_or(false)
    };
    let mut findings = Vec::new();
    if !is_inherited(krate.manifest.get("lints")) {
        findings.push(format!("{}: needs `[lints] workspace = true`", krate.name));
    }
    for (name, value) in dependency_tables(&krate.manifest).flatten() {
        if !is_inherited(Some(value)) {
            findings
                .push(format!("{}: {name} needs `workspace = true`, because the workspace sets versions", krate.name));
        }
    }
    findings
}

/// The tables of dependencies, including those for single targets.
fn dependency_tables(manifest: &Table) -> impl Iterator<Item = &Table> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    std::iter::once(manifest).chain(targets).flat_map(|table| {
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        kinds.into_iter().filter_map(|kind| table.get(kind)?.as_table())
    })
}

fn check_invariant(krate: &Crate, architecture: &str) -> Vec<String> {
    let start = format!("| `{}` |", krate.folder);
    let row = architecture.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix('|'));
    let said = row.map(str::trim);
    if krate.invariant.is_empty() {
        vec![format!("{}: must begin with its invariant in `//!`", krate.name)]
    } else if said == Some(krate.invariant.as_str()) {
        Vec::new()
    } else {
        let said = said.unwrap_or("nothing");
        vec![format!("{}: says {:?}, but docs/ARCHITECTURE.md says {said:?}", krate.folder, krate.invariant)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "lints.workspace = true";

    fn krate(name: &str) -> Crate {
        Crate {
            name: name.into(),
            folder: format!("crates/{name}"),
            dependencies: Vec::new(),
            manifest: MANIFEST.parse().unwrap(),
            invariant: format!("Says what {name} is."),
        }
    }

    /// A workspace of the rules' own crates, without dependencies.
    fn workspace() -> Workspace {
        let crates: Vec<_> = CRATES.iter().map(|(name, _)| krate(name)).collect();
        let rows: Vec<_> = crates.iter().map(|krate| format!("| `{}` | {} |", krate.folder, krate.invariant)).collect();
        Workspace { crates, architecture: rows.join("\n") }
    }

    /// The findings if `from` uses `to`.
    fn findings(from: &str, to: &str, kind: DependencyKind) -> Vec<String> {
        let mut workspace = workspace();
        let user = workspace.crates.iter_mut().find(|krate| krate.name == from).unwrap();
        user.dependencies.push(Dependency { name: to.into(), kind });
        check(&workspace)
    }

    fn findings_with_manifest(manifest: &str) -> Vec<String> {
        let mut workspace = workspace();
        workspace.crates[0].manifest = manifest.parse().unwrap();
        check(&workspace)
    }

    const NORMAL: DependencyKind = DependencyKind::Normal;
    const TEST: DependencyKind = DependencyKind::Development;
    const BUILD: DependencyKind = DependencyKind::Build;

    #[test]
    fn the_arrows_of_the_design_are_fine() {
        for (from, to, kind) in [
            ("usher-app", "usher-adapter-sql", NORMAL),
            ("usher-app", "usher-queue", NORMAL),
            ("usher-app", "usher-migrations", NORMAL),
            ("usher-app", "actix-web", NORMAL),
            ("usher-app", "usher-contract-tests", TEST),
            ("usher-bench", "usher-app", NORMAL),
            ("usher-adapter-memory", "usher-queue", NORMAL),
            ("usher-adapter-memory", "usher-contract-tests", TEST),
            ("usher-adapter-sql", "sea-orm", NORMAL),
            ("usher-adapter-sql", "usher-migrations", TEST),
            ("usher-loadtest", "usher-test-servers", NORMAL),
            ("usher-migrations", "usher-test-servers", TEST),
            ("usher-contract-tests", "usher-account", NORMAL),
            ("usher-migrations", "sea-orm-migration", NORMAL),
            ("usher-queue", "usher-kernel", NORMAL),
            ("usher-queue", "roaring", NORMAL),
            ("usher-queue", "tokio", TEST),
            ("usher-queue", "mockall", TEST),
        ] {
            assert_eq!(findings(from, to, kind), Vec::<String>::new(), "{from} -> {to}");
        }
    }

    #[test]
    fn arrows_against_the_design_are_found() {
        for (from, to, kind) in [
            ("usher-reservation", "usher-queue", NORMAL),
            ("usher-reservation", "usher-queue", TEST),
            ("usher-kernel", "usher-account", NORMAL),
            ("usher-queue", "usher-adapter-memory", TEST),
            ("usher-adapter-sql", "usher-app", NORMAL),
            ("usher-loadtest", "usher-app", NORMAL),
            ("usher-adapter-sql", "usher-adapter-memory", NORMAL),
            ("usher-adapter-sql", "usher-contract-tests", NORMAL),
            ("usher-app", "usher-contract-tests", NORMAL),
            ("usher-app", "usher-test-servers", NORMAL),
            ("usher-contract-tests", "usher-test-servers", NORMAL),
            ("usher-test-servers", "usher-kernel", NORMAL),
            ("usher-adapter-sql", "usher-migrations", NORMAL),
            ("usher-app", "usher-contract-tests", BUILD),
            ("xtask", "usher-kernel", NORMAL),
        ] {
            let findings = findings(from, to, kind);
            assert!(findings.iter().any(|f| f.contains(from) && f.contains(to)), "{from} -> {to}: {findings:?}");
        }
    }

    #[test]
    fn a_package_outside_of_a_domains_list_is_found() {
        for (from, package, kind) in [
            ("usher-kernel", "serde", NORMAL),
            ("usher-account", "tokio", NORMAL),
            ("usher-queue", "mockall", NORMAL),
            ("usher-queue", "rand", TEST),
            ("usher-reservation", "cc", BUILD),
        ] {
            assert_eq!(findings(from, package, kind).len(), 1, "{from} -> {package}");
        }
    }

    #[test]
    fn a_package_of_another_crate_is_found() {
        for (from, package) in [
            ("usher-app", "sea-orm"),
            ("usher-app", "sea-orm-migration"),
            ("usher-app", "fred"),
            ("usher-contract-tests", "sea-orm"),
            ("usher-adapter-sql", "actix-web"),
            ("usher-adapter-memory", "paperclip"),
            ("usher-adapter-memory", "mockall"),
            ("usher-migrations", "sea-orm"),
        ] {
            assert_eq!(findings(from, package, TEST).len(), 1, "{from} -> {package}");
        }
    }

    #[test]
    fn a_crate_without_a_layer_and_a_layer_without_a_crate_are_found() {
        let mut workspace = workspace();
        workspace.crates[0] = Crate { name: "usher-utils".into(), ..workspace.crates[0].clone() };

        let findings = check(&workspace).join("\n");

        assert!(findings.contains("usher-utils: has no layer"), "{findings}");
        assert!(findings.contains("usher-account: has a layer but does not exist"), "{findings}");
    }

    #[test]
    fn own_lints_and_versions_are_found() {
        let findings = findings_with_manifest(
            "dependencies.a = '1'\n\
             dependencies.b = { version = '1', features = ['x'] }\n\
             dev-dependencies.c = { path = '../c' }\n\
             build-dependencies.d = '1'\n\
             target.'cfg(unix)'.dependencies.e = '1'\n\
             dependencies.fine = { workspace = true, features = ['x'] }",
        );

        for wanted in ["[lints]", ": a needs", ": b needs", ": c needs", ": d needs", ": e needs"] {
            assert!(findings.iter().any(|finding| finding.contains(wanted)), "{wanted}: {findings:?}");
        }
        assert_eq!(findings.len(), 6, "{findings:?}");
    }

    #[test]
    fn an_invariant_that_is_missing_or_differs_from_the_docs_is_found() {
        let mut silent = workspace();
        silent.crates[0].invariant = String::new();
        let mut different = workspace();
        different.crates[0].invariant = "Says something else.".into();
        let mut undocumented = workspace();
        undocumented.architecture = String::new();

        assert_eq!((check(&silent).len(), check(&different).len()), (1, 1));
        assert_eq!(check(&undocumented).len(), CRATES.len());
    }

    #[test]
    fn the_invariant_is_the_first_paragraph() {
        assert_eq!(
            first_paragraph("//! One sentence\n//! on two lines.\n//!\n//! More.\nuse a;"),
            "One sentence on two lines."
        );
        assert_eq!(first_paragraph("use a;\n//! Late."), "");
    }
}
