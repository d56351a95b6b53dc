//! A raw HTTP/1.1 client that signs like the SDKs do and shows what is on the wire.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use granary_oss::query::Query;
use granary_oss::sign::client::{Credentials, Request};
use granary_runtime::Runtime;
use http::{HeaderName, HeaderValue, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How a request is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    V1,
    V2,
    V4,
    PresignV1,
    PresignV2,
    PresignV4,
    Anonymous,
}

/// A client with one pair of keys.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) credentials: Credentials,
    pub(crate) sign: Sign,
    pub(crate) host: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The text of the first element of that name.
    pub(crate) fn element(&self, name: &str) -> String {
        elements(&self.text(), name)
            .into_iter()
            .next()
            .unwrap_or_default()
    }

    pub(crate) fn elements(&self, name: &str) -> Vec<String> {
        elements(&self.text(), name)
    }

    /// Status and error code, for comparisons.
    pub(crate) fn outcome(&self) -> (u16, String) {
        (self.status, self.element("Code"))
    }
}

fn elements(text: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    text.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split(&close).next().map(str::to_owned))
        .collect()
}

/// A request under construction.
pub(crate) struct Call<'a> {
    client: &'a Client,
    request: Request,
    body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, id: &str, secret: &str) -> Self {
        Self {
            address,
            credentials: Credentials::new(id, secret),
            sign: Sign::V4,
            host: address.to_string(),
        }
    }

    pub(crate) fn signing(&self, sign: Sign) -> Self {
        Self {
            sign,
            ..self.clone()
        }
    }

    /// `target` is `""`, `"bucket"` or `"bucket/key"`, then perhaps a query; names are not encoded.
    pub(crate) fn call(&self, method: &str, target: &str) -> Call<'_> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let mut request = Request::new(
            Method::from_bytes(method.as_bytes()).unwrap(),
            Some(bucket).filter(|b| !b.is_empty()),
            Some(key).filter(|k| !k.is_empty()),
        );
        request.query = Query::parse(Some(query).filter(|q| !q.is_empty())).unwrap();
        Call {
            client: self,
            request,
            body: Vec::new(),
        }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.call("GET", target).send().await
    }

    pub(crate) async fn head(&self, target: &str) -> Answer {
        self.call("HEAD", target).send().await
    }

    pub(crate) async fn delete(&self, target: &str) -> Answer {
        self.call("DELETE", target).send().await
    }

    pub(crate) async fn put(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("PUT", target).body(body).send().await
    }

    pub(crate) async fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("POST", target).body(body).send().await
    }
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        self.request
            .headers
            .insert(HeaderName::try_from(name).unwrap(), value);
        self
    }

    /// One more line, in Latin-1.
    pub(crate) fn header_line(mut self, name: &str, value: &str) -> Self {
        let bytes: Vec<u8> = value.chars().map(|char| char as u8).collect();
        let value = HeaderValue::from_bytes(&bytes).unwrap();
        self.request
            .headers
            .append(HeaderName::try_from(name).unwrap(), value);
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The head as it goes over the wire, with `Connection: close`.
    pub(crate) fn wire_head(mut self) -> Vec<u8> {
        let (client, now) = (self.client, Runtime::system().now());
        match client.sign {
            Sign::V1 => client.credentials.sign_v1(&mut self.request, now),
            Sign::V2 => client.credentials.sign_v2(&mut self.request, now, &[]),
            Sign::V4 => client
                .credentials
                .sign_v4(&mut self.request, now, "cn-granary-1", &[]),
            Sign::PresignV1 => {
                client
                    .credentials
                    .presign_v1(&mut self.request, now.plus_millis(60_000));
            }
            Sign::PresignV2 => {
                let until = now.plus_millis(60_000);
                client.credentials.presign_v2(&mut self.request, until, &[]);
            }
            Sign::PresignV4 => {
                client
                    .credentials
                    .presign_v4(&mut self.request, now, 60, "cn-granary-1", &[]);
            }
            Sign::Anonymous => {}
        }
        let request = &self.request;
        let mut path = String::from("/");
        if let Some(bucket) = &request.bucket {
            path.push_str(bucket);
            path.push('/');
        }
        if let Some(key) = &request.key {
            path.push_str(&granary_oss::escape::encode_path(key.as_bytes()));
        }
        if !request.query.is_empty() {
            path.push('?');
            path.push_str(&request.query.to_raw());
        }
        let mut head = format!("{} {path} HTTP/1.1\r\n", request.method).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        line("Host", client.host.as_bytes());
        for (name, value) in &request.headers {
            line(name.as_str(), value.as_bytes());
        }
        let framed = request.headers.contains_key("content-length")
            || request.headers.contains_key("transfer-encoding");
        let has_body = !self.body.is_empty() || matches!(request.method.as_str(), "PUT" | "POST");
        if has_body && !framed {
            line("Content-Length", self.body.len().to_string().as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    pub(crate) async fn send(self) -> Answer {
        let (address, body) = (self.client.address, self.body.clone());
        let is_head = self.request.method == Method::HEAD;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = self.wire_head();
        stream.write_all(&head).await.unwrap();
        // A refused body may not be taken to its end.
        let _ = stream.write_all(&body).await;
        read_answer(&mut stream, is_head).await
    }
}

/// Reads a chunked body to its end; `bytes` is what has come of it.
async fn read_chunks(stream: &mut TcpStream, mut bytes: Vec<u8>) -> Vec<u8> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|w| w == b"\r\n");
        if let Some(line) = line {
            let digits = std::str::from_utf8(&bytes[at..at + line]).unwrap();
            let length = usize::from_str_radix(digits, 16).unwrap();
            let start = at + line + 2;
            if bytes.len() >= start + length + 2 {
                body.extend_from_slice(&bytes[start..start + length]);
                at = start + length + 2;
                match length {
                    0 => return body,
                    _ => continue,
                }
            }
        }
        let mut piece = vec![0; 64 * 1024];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "cut inside a chunk");
        bytes.extend_from_slice(&piece[..count]);
    }
}

/// Reads one answer; panics when there is none within ten seconds.
pub(crate) async fn read_answer(stream: &mut TcpStream, is_head: bool) -> Answer {
    let reading = async {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let mut piece = vec![0; 16 * 1024];
            let count = stream.read(&mut piece).await.unwrap();
            assert!(
                count > 0,
                "closed before an answer: {:?}",
                String::from_utf8_lossy(&bytes)
            );
            bytes.extend_from_slice(&piece[..count]);
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let mut headers: HashMap<String, String> = HashMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let all = headers.entry(name.to_ascii_lowercase()).or_default();
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(value.trim());
        }
        let bodiless = is_head || [100, 204, 304].contains(&status);
        let length: usize = match bodiless {
            true => 0,
            false => headers
                .get("content-length")
                .map_or(0, |l| l.parse().unwrap()),
        };
        let mut body = bytes[end..].to_vec();
        if headers
            .get("transfer-encoding")
            .is_some_and(|v| v == "chunked")
            && !bodiless
        {
            body = read_chunks(stream, body).await;
        }
        while body.len() < length {
            let mut piece = vec![0; 64 * 1024];
            let count = stream.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            body.extend_from_slice(&piece[..count]);
        }
        Answer {
            status,
            headers,
            body,
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("an answer within 10 s")
}
