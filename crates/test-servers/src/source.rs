//! Sources of servers: container images, or the programs of this machine.

use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::container;

/// The value of an image variable that selects the programs of this machine.
const NO_IMAGE: &str = "none";

/// A source of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A container image.
    Image(String),
    /// The programs of this machine.
    Installed,
}

impl Source {
    /// The value of an image variable for this source.
    pub(crate) fn variable(&self) -> &str {
        match self {
            Self::Image(image) => image,
            Self::Installed => NO_IMAGE,
        }
    }
}

/// A kind of server: Redis or Valkey, or MySQL or MariaDB.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The variable with the URL of a running server.
    pub(crate) url_variable: &'static str,
    /// The variable with the image to start servers from.
    pub(crate) image_variable: &'static str,
    /// The image to start servers from by default.
    pub(crate) default_image: &'static str,
    /// The names of the server programs, separated by `|`.
    pub(crate) programs: &'static str,
    /// The Debian packages of one of these programs.
    pub(crate) packages: &'static [&'static str],
    /// Runs a server with its data below the folder `$1` and the options behind it, until its input ends. It ignores
    /// SIGPIPE: the shell logs that it killed the server, and must go on to remove the data when nobody reads the log.
    pub(crate) script: &'static str,
    /// A server that is ready logs this.
    pub(crate) ready: &'static str,
    pub(crate) chosen: OnceLock<Source>,
}

impl Kind {
    /// The URL of a running server, if one is given.
    pub(crate) fn given_url(&self) -> Option<String> {
        given(self.url_variable)
    }

    /// The source of servers, if one is given.
    pub(crate) fn given_source(&self) -> Option<Source> {
        given(self.image_variable).map(|image| if image == NO_IMAGE { Source::Installed } else { Source::Image(image) })
    }

    /// The source of this process' servers. Reports its choice, once.
    pub(crate) fn source(&self) -> &Source {
        self.chosen.get_or_init(|| {
            self.given_source().unwrap_or_else(|| {
                let image = self.default_image;
                let is_here = container::has_image(image);
                let source = if is_here { Source::Image(image.to_owned()) } else { Source::Installed };
                say(&format!("{}: {}", self.name, self.describe(&source)));
                source
            })
        })
    }

    /// Sets the source of this process' servers.
    pub(crate) fn choose(&self, source: Source) {
        self.chosen.set(source).expect("the source is chosen once");
    }

    /// A source, as a text for users.
    pub(crate) fn describe(&self, source: &Source) -> String {
        match source {
            Source::Image(image) => format!("a container of {image}"),
            Source::Installed => self.version().unwrap_or_else(|| format!("none: {}", self.advice())),
        }
    }

    /// Advice to a user without a server.
    pub(crate) fn advice(&self) -> String {
        format!("install {} (Debian: {}), or set {}", self.programs, self.packages.join(" "), self.image_variable)
    }

    /// Whether this machine has one of the programs.
    pub(crate) fn is_installed(&self) -> bool {
        self.program().is_some()
    }

    fn program(&self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).collect();
        let candidates = self.programs.split('|').flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        candidates.into_iter().find(|file| file.is_file())
    }

    /// The first words of the program's `--version`.
    fn version(&self) -> Option<String> {
        let output = Command::new(self.program()?).arg("--version").output().ok()?;
        let words: Vec<_> =
            String::from_utf8_lossy(&output.stdout).split_whitespace().take(3).map(str::to_owned).collect();
        Some(words.join(" "))
    }
}

/// Prints a line on standard error.
pub(crate) fn say(line: &str) {
    let _nobody_reads_it = writeln!(io::stderr(), "{line}");
}

#[expect(clippy::disallowed_methods, reason = "tests are configured by their environment")]
fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}
