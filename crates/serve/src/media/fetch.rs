//! Media by http(s) addresses.
//!
//! Every name is resolved once, its addresses are looked at, and the connection goes to one of these; so
//! a name that answers differently the second time gains nothing. The same holds for every redirection.
//! Proxies of the environment are not used: they would resolve names themselves.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use super::address::is_public;
use crate::options::ServeOptions;

/// Redirections that are followed.
const REDIRECTS: u32 = 5;
/// Longest address.
const LONGEST: usize = 8192;

/// Gets files of the web.
#[derive(Debug)]
pub(super) struct Web {
    agent: Agent,
    most: u64,
}

impl Web {
    pub(super) fn new(options: &ServeOptions) -> Self {
        Self::among(is_public, options)
    }

    /// Goes to addresses alone that are `permitted`.
    fn among(permitted: fn(IpAddr) -> bool, options: &ServeOptions) -> Self {
        let config = savi_data::http::settings()
            .http_status_as_error(true)
            .max_redirects_will_error(true)
            .proxy(None)
            .max_redirects(REDIRECTS)
            .timeout_global(Some(options.fetch_timeout))
            // Nothing is kept open for others: each connection is to addresses that were just looked at.
            .max_idle_connections(0)
            .build();
        let guard = Guard { permitted, names: DefaultResolver::default() };
        let agent = Agent::with_parts(config, DefaultConnector::default(), guard);
        Self { agent, most: options.max_fetch_bytes }
    }

    /// Type and bytes of what lies at an address.
    pub(super) fn get(&self, address: &str) -> Result<(String, Vec<u8>), String> {
        if address.len() > LONGEST {
            return Err(format!("is an address of more than {LONGEST} bytes"));
        }
        let uri: Uri = address.parse().map_err(|error| format!("is no address: {error}"))?;
        let authority = uri.authority().ok_or("is an address without a host")?;
        if authority.as_str().contains('@') {
            return Err("is an address with a user's name; none is sent".to_owned());
        }
        let mut response = self.agent.get(uri).call().map_err(said)?;
        let mime = response.body().mime_type().unwrap_or_default().to_owned();
        if response.body().content_length().is_some_and(|length| length > self.most) {
            return Err(format!("is longer than {} bytes", self.most));
        }
        let mut bytes = Vec::new();
        let mut reader = response.body_mut().as_reader().take(self.most.saturating_add(1));
        reader.read_to_end(&mut bytes).map_err(|error| format!("broke off: {error}"))?;
        if bytes.len() as u64 > self.most {
            return Err(format!("is longer than {} bytes", self.most));
        }
        Ok((mime, bytes))
    }
}

fn said(error: Error) -> String {
    match error {
        Error::Other(refused) if refused.is::<Closed>() => refused.to_string(),
        Error::StatusCode(status) => format!("could not be fetched: status {status}"),
        Error::TooManyRedirects => format!("leads on more than {REDIRECTS} times"),
        Error::Timeout(_) => "could not be fetched in time".to_owned(),
        Error::HostNotFound => "names a host that is not found".to_owned(),
        other => format!("could not be fetched: {other}"),
    }
}

/// The host has an address that is not one of the internet at large.
#[derive(Debug, thiserror::Error)]
#[error("names a host that is not on the public internet")]
struct Closed;

/// Resolves names and gives out permitted addresses alone.
struct Guard {
    permitted: fn(IpAddr) -> bool,
    names: DefaultResolver,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.names.resolve(uri, config, timeout)?;
        // One that is not suffices: a name that leads to both kinds means no good.
        if found.iter().all(|address| (self.permitted)(address.ip())) {
            Ok(found)
        } else {
            Err(Error::Other(Box::new(Closed)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    /// Answers every request by its path, on 127.0.0.1.
    fn server(answer: fn(&str) -> Vec<u8>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let first = lines.next().unwrap().unwrap();
                    while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    let _ = stream.write_all(&answer(&path));
                });
            }
        });
        port
    }

    fn web() -> Web {
        // As if 127.0.0.1 were the internet at large, and nothing else were.
        let options = ServeOptions {
            max_fetch_bytes: 1000,
            fetch_timeout: Duration::from_millis(1500),
            ..ServeOptions::default()
        };
        Web::among(|address| address.to_string() == "127.0.0.1", &options)
    }

    fn answer(path: &str) -> Vec<u8> {
        let to = |place: &str| {
            format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n")
        };
        match path {
            "/file" => {
                "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\nabc".into()
            }
            "/moved" => to("/file").into(),
            "/round" => to("/round").into(),
            "/private" => to("http://127.0.0.2/file").into(),
            "/cloud" => to("http://169.254.169.254/latest/meta-data").into(),
            "/six" => to("http://[::1]/file").into(),
            "/own-file" => to("file:///etc/passwd").into(),
            "/long" => "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n".into(),
            "/endless" => [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 3000]].concat(),
            "/slow" => {
                std::thread::sleep(Duration::from_secs(4));
                Vec::new()
            }
            _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(),
        }
    }

    #[test]
    fn what_is_permitted_is_fetched() {
        let port = server(answer);
        let get = |path: &str| web().get(&format!("http://127.0.0.1:{port}{path}"));
        let file = Ok(("image/png".to_owned(), b"abc".to_vec()));
        assert_eq!(get("/file"), file);
        assert_eq!(get("/moved"), file);
        assert_eq!(get("/none"), Err("could not be fetched: status 404".to_owned()));
        assert_eq!(get("/long"), Err("is longer than 1000 bytes".to_owned()));
        assert_eq!(get("/endless"), Err("is longer than 1000 bytes".to_owned()));
        assert_eq!(get("/slow"), Err("could not be fetched in time".to_owned()));
        assert_eq!(get("/round"), Err("leads on more than 5 times".to_owned()));
    }

    #[test]
    fn redirections_are_looked_at_again() {
        let port = server(answer);
        for path in ["/private", "/cloud", "/six"] {
            let refused = web().get(&format!("http://127.0.0.1:{port}{path}"));
            assert_eq!(refused, Err(Closed.to_string()), "{path}");
        }
        let refused = web().get(&format!("http://127.0.0.1:{port}/own-file")).unwrap_err();
        assert!(refused.contains("could not be fetched"), "{refused}");
    }

    #[test]
    fn private_addresses_are_refused_however_they_are_written() {
        let web = Web::new(&ServeOptions::default());
        for host in [
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "0.0.0.0",
            "0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[fe80::1]",
            "[fd00::1]",
            "10.0.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
        ] {
            let refused = web.get(&format!("http://{host}:9/x")).unwrap_err();
            assert_eq!(refused, Closed.to_string(), "{host}");
        }
        assert!(web.get("http://me@example.org/x").unwrap_err().contains("user's name"));
        assert!(web.get("http:///x").is_err());
    }
}
