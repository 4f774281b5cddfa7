//! Server-Sent Events as a browser reads them.

use std::collections::BTreeMap;

use reqwest::Response;

/// The blocks of a stream that have fields, such as events. Skips comments.
pub(crate) struct Blocks {
    pub(crate) response: Response,
    unread: String,
}

/// The fields of a block. Each occurs once.
pub(crate) type Block = BTreeMap<String, String>;

impl Blocks {
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        Self { response, unread: String::new() }
    }

    /// The next block; `None` if the stream has ended properly.
    pub(crate) async fn next(&mut self) -> Option<Block> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                if block.starts_with(':') {
                    continue;
                }
                let mut fields = Block::new();
                for (name, value) in block.lines().filter_map(|line| line.split_once(": ")) {
                    assert_eq!(fields.insert(name.to_owned(), value.to_owned()), None, "{name} of {block}");
                }
                return Some(fields);
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
