//! Authentication: passwords and access tokens. Knows nothing of requests.

pub mod access_tokens;
pub mod password;
