//! The text files of the checkout, as the checks read them.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;

/// The text files of the checkout, by their path from its root.
pub(crate) type Files = BTreeMap<String, String>;

/// Reads the files in `root` that git tracks, and those that `git add` would add.
pub(crate) fn read(root: &str) -> Result<Files, Box<dyn Error>> {
    let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").arg("-C").arg(root).args(listed).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let mut files = Files::new();
    for path in String::from_utf8(output.stdout)?.split_terminator('\0') {
        // Skips files that are deleted but still in the index, and files that are no text.
        if let Ok(text) = std::fs::read_to_string(format!("{root}/{path}")) {
            files.insert(path.to_owned(), text);
        }
    }
    Ok(files)
}
