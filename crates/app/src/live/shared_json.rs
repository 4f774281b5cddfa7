//! A JSON text that is written once and sent to many clients, plain or compressed.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// A JSON text, its compressed form, and a tag that changes with its content. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct SharedJson {
    plain: Bytes,
    /// `None` where compressing makes the text longer.
    gzip: Option<Bytes>,
    tag: Arc<str>,
}

impl SharedJson {
    /// Takes a JSON text; its tag is the digest of its bytes.
    #[must_use]
    pub fn of(json: Vec<u8>) -> Self {
        let tag = digest(&json);
        Self::tagged(json, &tag)
    }

    /// Takes a JSON text with a tag that identifies its content, made of letters, digits, `-` and `_`.
    #[must_use]
    pub fn tagged(json: Vec<u8>, tag: &str) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let gzip = encoder.write_all(&json).and_then(|()| encoder.finish());
        let gzip = gzip.ok().filter(|gzip| gzip.len() < json.len()).map(Bytes::from);
        Self { plain: json.into(), gzip, tag: tag.into() }
    }

    /// The text.
    #[must_use]
    pub const fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The text in gzip, where that is shorter.
    #[must_use]
    pub const fn gzip(&self) -> Option<&Bytes> {
        self.gzip.as_ref()
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The number of bytes in memory.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.plain.len() + self.gzip.as_ref().map_or(0, Bytes::len)
    }
}

/// The digest of a text: 128 bits of SHA-256 in base64url.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..16])
}
