//! One server of each kind for all tests of a run, and one choice of the source of further servers.

use std::io;
use std::process::{Command, ExitStatus};

use crate::container;
use crate::source::{Kind, Source, say};
use crate::{mysql_server, redis_server};

/// The script that installs a missing program, or reports that it is missing.
const NEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/need");

/// Runs a command whose tests share servers, and ends the servers after it. Reports the sources of the servers.
///
/// # Errors
/// If the command cannot be started.
///
/// # Panics
/// If no server is given, and none can be started.
pub fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let kinds = [&redis_server::KIND, &mysql_server::KIND];
    choose(&kinds);
    for kind in kinds {
        let source = kind.source();
        if *source == Source::Installed && !kind.is_installed() {
            assert!(Command::new(NEED).arg(kind.programs).args(kind.packages).status()?.success(), "{}", kind.advice());
        }
        let given = if kind.given_url().is_some() { "the given server, and else " } else { "" };
        say(&format!("{}: {given}{}", kind.name, kind.describe(source)));
        command.env(kind.image_variable, source.variable());
    }
    let (redis, _redis) = redis_server::given_or_started();
    let (mysql, _mysql) = mysql_server::given_or_started();
    command.env(redis_server::KIND.url_variable, redis).env(mysql_server::KIND.url_variable, mysql).status()
}

/// Chooses a source for each kind for which none is given: a container, if the engine has or can pull its image.
fn choose(kinds: &[&'static Kind]) {
    let open: Vec<_> = kinds.iter().filter(|kind| kind.given_source().is_none()).collect();
    let images: Vec<_> = open.iter().map(|kind| kind.default_image).collect();
    let mut there = Vec::new();
    if !images.is_empty() {
        match container::block_on(container::provide(images)) {
            Ok((version, images)) => {
                say(&format!("containers: testcontainers on Docker {version}"));
                there = images;
            }
            Err(reason) => say(&format!("containers: not run ({reason})")),
        }
    }
    for kind in open {
        let image = kind.default_image;
        kind.choose(if there.contains(&image) { Source::Image(image.to_owned()) } else { Source::Installed });
    }
}
