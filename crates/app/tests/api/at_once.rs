//! Requests that reach a server at the same time: each is sent except for its last byte, and then all last bytes are
//! sent together.

use futures_util::future::join_all;
use reqwest::{Body, RequestBuilder};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::app::{Answer, Api, Wire};

/// Sends requests at the same time, each on its own connection. Returns the answers in the order of the requests.
pub(crate) async fn at_once(api: &Api, requests: impl IntoIterator<Item = RequestBuilder>) -> Vec<Answer> {
    raise_file_limit();
    let begun = join_all(requests.into_iter().map(|request| Begun::new(api, request))).await;
    join_all(begun.into_iter().map(Begun::finish)).await
}

/// A request that lacks its last byte.
struct Begun {
    wire: Wire,
    path: String,
    last: u8,
}

impl Begun {
    async fn new(api: &Api, request: RequestBuilder) -> Self {
        let request = request.build().unwrap();
        let mut bytes = to_bytes(&request);
        let last = bytes.pop().unwrap();
        let mut wire = api.connect().await;
        wire.send(bytes).await;
        Self { wire, path: request.url().path().to_owned(), last }
    }

    async fn finish(mut self) -> Answer {
        self.wire.send([self.last]).await;
        self.wire.answer(&self.path).await
    }
}

/// The request as it goes over the wire (RFC 9112).
fn to_bytes(request: &reqwest::Request) -> Vec<u8> {
    let (url, body) = (request.url(), request.body().and_then(Body::as_bytes).unwrap_or_default());
    let mut bytes =
        format!("{} {} HTTP/1.1\r\nhost: {}\r\n", request.method(), url.path(), url.authority()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend(body);
    bytes
}

/// Raises this process's limit of open files to the hard limit: both ends of every connection may be here.
pub(crate) fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
