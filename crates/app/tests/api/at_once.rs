//! Requests that a server is answering all at once: each is sent up to its last byte, and then all last bytes go out
//! together.

use std::net::SocketAddr;

use futures_util::future::join_all;
use reqwest::{Body, RequestBuilder, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer, read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The answer to a request that was sent in the usual way.
    pub(crate) async fn of(response: Response) -> Self {
        Self { status: response.status().as_u16(), body: response.text().await.unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status, and the problem's code where it is one.
    pub(crate) fn verdict(&self) -> (u16, String) {
        let code = if self.status < 400 { String::new() } else { self.json()["code"].as_str().unwrap().to_owned() };
        (self.status, code)
    }
}

/// Sends requests so that all are under way at once, each on a connection of its own. Answers in their order.
pub(crate) async fn at_once(address: SocketAddr, requests: impl IntoIterator<Item = RequestBuilder>) -> Vec<Answer> {
    raise_file_limit();
    let begun = requests.into_iter().map(|request| begin(address, to_bytes(request)));
    join_all(join_all(begun).await.into_iter().map(finish)).await
}

/// Sends all but the last byte.
async fn begin(address: SocketAddr, mut request: Vec<u8>) -> (TcpStream, u8) {
    let last = request.pop().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&request).await.unwrap();
    (stream, last)
}

/// Sends the last byte, and reads the answer.
async fn finish((mut stream, last): (TcpStream, u8)) -> Answer {
    stream.write_all(&[last]).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("half an answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, body: body.to_owned() }
}

/// The request as it goes over the wire (RFC 9112).
fn to_bytes(request: RequestBuilder) -> Vec<u8> {
    let request = request.build().unwrap();
    let (url, body) = (request.url(), request.body().and_then(Body::as_bytes).unwrap_or_default());
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut bytes = format!("{} {target} HTTP/1.1\r\nhost: {}\r\n", request.method(), url.authority()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend(body);
    bytes
}

/// Lets this process open as many files as it is allowed to ask for: both ends of every connection may be here.
fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
