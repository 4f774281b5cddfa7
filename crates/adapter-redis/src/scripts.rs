//! The scripts of an epoch.
//!
//! Their text begins with the epoch, so their names (SHA-1) differ from those of other epochs. Only
//! [`open`](Verb::Open) loads them. If no line was opened in the epoch, or the server lost the scripts since, Redis
//! answers `NOSCRIPT`, and the line is lost. Scripts are never sent by EVAL, and no other verb loads them.

use fred::types::scripts::Script;
use usher_queue::Epoch;

/// A script, named after the method of the port that it implements.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    Join,
    Resolve,
    ReEnter,
    Leave,
    EndPass,
    MarkPresent,
    Admit,
    Refresh,
    Contribute,
    /// Loaded last: if it is loaded, all others are, too.
    Open,
}

/// The text of each verb's script, in the order of [`Verb`].
const TEXTS: [&str; 10] = [
    include_str!("lua/join.lua"),
    include_str!("lua/resolve.lua"),
    include_str!("lua/re_enter.lua"),
    include_str!("lua/leave.lua"),
    include_str!("lua/end_pass.lua"),
    include_str!("lua/mark_present.lua"),
    include_str!("lua/admit.lua"),
    include_str!("lua/refresh.lua"),
    include_str!("lua/contribute.lua"),
    include_str!("lua/open.lua"),
];

impl Verb {
    /// The name of the port's method in errors.
    pub(crate) const fn operation(self) -> &'static str {
        match self {
            Self::Open => "line.open",
            Self::Join => "line.join",
            Self::Resolve => "line.resolve",
            Self::ReEnter => "line.re_enter",
            Self::Leave => "line.leave",
            Self::EndPass => "line.end_pass",
            Self::MarkPresent => "line.mark_present",
            Self::Admit => "line.admit",
            Self::Refresh => "line.refresh",
            Self::Contribute => "line.contribute",
        }
    }
}

/// All scripts of one epoch.
pub(crate) struct Scripts {
    epoch: Epoch,
    scripts: [Script; TEXTS.len()],
}

impl Scripts {
    /// Hashes the scripts of an epoch: about 100 KB of text.
    pub(crate) fn of(epoch: Epoch) -> Self {
        let prelude = include_str!("lua/prelude.lua");
        let scripts = TEXTS.map(|verb| Script::from_lua(format!("local EPOCH = {}\n{prelude}{verb}", epoch.get())));
        Self { epoch, scripts }
    }

    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) const fn get(&self, verb: Verb) -> &Script {
        &self.scripts[verb as usize]
    }

    /// In the order in which they are loaded.
    pub(crate) fn all(&self) -> &[Script] {
        &self.scripts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_names_its_own_script() {
        let scripts = Scripts::of(Epoch::new(7));

        let verbs = [
            Verb::Open,
            Verb::Join,
            Verb::Resolve,
            Verb::ReEnter,
            Verb::Leave,
            Verb::EndPass,
            Verb::MarkPresent,
            Verb::Admit,
            Verb::Refresh,
            Verb::Contribute,
        ];
        assert_eq!(verbs.len(), scripts.all().len());
        for verb in verbs {
            let text = scripts.get(verb).lua().unwrap();
            let name = verb.operation().strip_prefix("line.").unwrap();
            assert!(
                text.starts_with(
                    "local EPOCH = 7
"
                ),
                "{name}"
            );
            assert!(
                text.contains(&format!(
                    "
-- {name}: "
                )),
                "{name}"
            );
        }
    }

    #[test]
    fn the_scripts_of_another_epoch_have_other_names() {
        let (first, second) = (Scripts::of(Epoch::new(1)), Scripts::of(Epoch::new(2)));

        for (one, other) in first.all().iter().zip(second.all()) {
            assert_ne!(one.sha1(), other.sha1());
        }
    }

    #[test]
    fn no_script_looks_for_keys() {
        let texts = TEXTS.into_iter().chain([include_str!("lua/prelude.lua")]);

        for command in texts.flat_map(|text| text.split("redis.call('").skip(1)) {
            let name = command.split('\'').next().unwrap();
            assert!(!matches!(name, "KEYS" | "SCAN" | "HSCAN" | "SSCAN" | "ZSCAN" | "EVAL"), "{name}");
        }
    }
}
