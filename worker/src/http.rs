//! HTTP to one peer: the only place that knows the HTTP library. Every wait is bounded by one timeout, answers are bounded
//! in size, nothing is redirected and no proxy is taken from the environment.
//!
//! A [`Fault`] from here means that there was no answer, and always that the peer is down: refused, silent, a
//! certificate that is not trusted. What an answer means is its reader's business. A reason names the peer and the
//! cause, never what was sent or answered.

use crate::fault::Fault;
use crate::files::plain;
use link::SecretValue;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use ureq::http::{Method, Request, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider};

/// Bytes of an answer that are read. What is waited for is a few hundred bytes; look-ups page.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a CA file: the bundle of all public CAs has 250 KB.
const CA_FILE_BYTES_MAX: u64 = 4 << 20;
/// How long an idle connection is kept: below what servers keep theirs, of which the least patient close after 5 s. One
/// that is closed just when it is used again costs an attempt.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Longest wait that a peer may ask for.
const WANTED_MAX: Duration = Duration::from_secs(3600);

/// Where a peer is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What it is, for reasons: `solr`.
    pub what: &'static str,
    /// Host name or address.
    pub name: String,
    /// TCP port.
    pub port: u16,
    /// HTTPS, or plain HTTP.
    pub https: bool,
    /// Check the certificate.
    pub certificate: bool,
    /// CA bundle instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Bound of a whole call.
    pub timeout: Duration,
}

/// Who we say we are.
#[derive(Clone, Debug)]
pub enum Authorization {
    /// Nobody.
    None,
    /// By user and password.
    Basic(String, SecretValue),
    /// By token.
    Bearer(SecretValue),
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// The wait it asks for, microseconds.
    pub wanted_us: Option<i64>,
    /// Where it would redirect us to.
    pub location: Option<String>,
    /// Its body; the status stands whether or not it came whole.
    pub body: Result<Vec<u8>, Fault>,
}

/// A client of one peer. Keeps its connections.
#[derive(Debug)]
pub struct Http {
    endpoint: Endpoint,
    /// `solr "arc01:8983"`.
    label: String,
    /// `None` where a secret cannot stand in a header.
    authorization: Option<Option<HeaderValue>>,
    agent: Option<ureq::Agent>,
}

impl Http {
    /// A client; it connects when it is used.
    pub fn new(endpoint: Endpoint, authorization: &Authorization) -> Http {
        let header = |text: String| {
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some(Some(value))
        };
        let authorization = match authorization {
            Authorization::None => Some(None),
            Authorization::Bearer(token) => header(format!("Bearer {}", token.expose())),
            Authorization::Basic(user, password) => {
                let both = format!("{user}:{}", password.expose());
                header(format!("Basic {}", base64_simd::STANDARD.encode_to_string(both.as_bytes())))
            }
        };
        let label = format!("{} \"{}:{}\"", endpoint.what, endpoint.name, endpoint.port);
        Http { endpoint, label, authorization, agent: None }
    }

    /// `solr "arc01:8983"`, for reasons.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Bound of a whole call.
    pub fn timeout(&self) -> Duration {
        self.endpoint.timeout
    }

    /// GET of a path, query included.
    ///
    /// # Errors
    /// No answer.
    pub fn get(&mut self, path: &str) -> Result<Response, Fault> {
        self.call(Method::GET, path, &[], &[])
    }

    /// HEAD of a path.
    ///
    /// # Errors
    /// No answer.
    pub fn head(&mut self, path: &str) -> Result<Response, Fault> {
        self.call(Method::HEAD, path, &[], &[])
    }

    /// POST to a path.
    ///
    /// # Errors
    /// No answer.
    pub fn post(
        &mut self,
        path: &str,
        content_type: &'static str,
        headers: &[(&'static str, &str)],
        body: &[u8],
    ) -> Result<Response, Fault> {
        let mut all = vec![(CONTENT_TYPE.as_str(), content_type)];
        all.extend_from_slice(headers);
        self.call(Method::POST, path, &all, body)
    }

    fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &[u8],
    ) -> Result<Response, Fault> {
        let Some(authorization) = &self.authorization else {
            let reason = format!("the secret for {} holds what no header can: a line break?", self.label);
            return Err(Fault::down(reason));
        };
        let mut request =
            Request::builder().method(&method).uri(self.uri(path)).header(USER_AGENT, "hl7server");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let agent = self.agent()?;
        // The library panics where it gets no thread to look a name up in, which is no fault of the message.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let response = match method {
                Method::POST => agent.run(request.body(body)?)?,
                _ => agent.run(request.body(())?)?,
            };
            Ok(self.read(response))
        }));
        match result {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Fault::down(self.reason(&error))),
            Err(_) => {
                self.agent = None;
                Err(Fault::down(format!("could not ask {}: the HTTP library gave up", self.label)))
            }
        }
    }

    fn read(&self, response: ureq::http::Response<ureq::Body>) -> Response {
        let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let wanted = text(RETRY_AFTER).and_then(|value| retry_after(&value, SystemTime::now()));
        let (status, location) = (response.status(), text(LOCATION));
        let body = response.into_body().into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Response {
            status,
            location,
            wanted_us: wanted.map(|wait| i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)),
            body: body.map_err(|error| Fault::down(self.reason(&error))),
        }
    }

    fn uri(&self, path: &str) -> String {
        let Endpoint { name, port, https, .. } = &self.endpoint;
        let scheme = if *https { "https" } else { "http" };
        let host = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        format!("{scheme}://{host}:{port}{path}")
    }

    /// The library's client. Made at the first call and, where its CA file cannot be read, at the next.
    fn agent(&mut self) -> Result<ureq::Agent, Fault> {
        if let Some(agent) = &self.agent {
            return Ok(agent.clone());
        }
        let roots = match &self.endpoint.ca_file {
            Some(path) if self.endpoint.https && self.endpoint.certificate => {
                RootCerts::new_with_certs(&certificates(path).map_err(|why| {
                    Fault::down(format!("could not read ca_file {path:?} of {}: {why}", self.label))
                })?)
            }
            _ => RootCerts::PlatformVerifier,
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(roots)
            .disable_verification(!self.endpoint.certificate)
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(self.endpoint.timeout))
            .max_idle_age(IDLE_MAX)
            .max_idle_connections(1)
            .build()
            .new_agent();
        Ok(self.agent.insert(agent).clone())
    }

    fn reason(&self, error: &ureq::Error) -> String {
        let label = &self.label;
        match error {
            ureq::Error::Timeout(_) => {
                format!("{label} did not answer within {} s", self.endpoint.timeout.as_secs_f64())
            }
            ureq::Error::Io(error) => match error.kind() {
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe => format!("{label} closed the connection before it had answered"),
                _ => format!("could not connect to {label}: {}", plain(error)),
            },
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                format!("could not connect to {label}: its name has no address")
            }
            ureq::Error::NativeTls(error) => {
                format!("could not connect to {label}: TLS: {}", tls_cause(&error.to_string()))
            }
            ureq::Error::BodyExceedsLimit(_) => {
                format!("{label} answered with more than {ANSWER_BYTES_MAX} bytes")
            }
            ureq::Error::LargeResponseHeader(..) => {
                format!("{label} answered with a header of too many bytes")
            }
            // The library's own words; an answer is not quoted in them.
            ureq::Error::Protocol(_) => format!("{label} answered something that is not HTTP"),
            other => format!("could not ask {label}: {other}"),
        }
    }
}

/// A path with everything escaped that cannot stand in one; what is escaped already stays.
pub fn escape_path(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A form's fields as a request's body.
pub fn form(fields: &[(&str, &str)]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let escape = |text: &str| -> String {
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    fields
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect::<Vec<_>>()
        .join("&")
}

/// What `Retry-After` asks for: seconds, or a date; an hour at most.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More seconds than a number holds.
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => WANTED_MAX,
        Err(_) => {
            let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
            SystemTime::from(at).duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(WANTED_MAX))
}

fn certificates(path: &std::path::Path) -> Result<Vec<Certificate<'static>>, String> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| plain(&e))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, CA_FILE_BYTES_MAX), &mut text)
        .map_err(|e| plain(&e))?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| "it is damaged".to_owned())? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err("no certificate is in it".to_owned()) } else { Ok(found) }
}

/// OpenSSL says code, library, function, reason, file, line and at the end, in brackets, what it is about.
fn tls_cause(text: &str) -> String {
    let bracketed = text.strip_suffix(')').and_then(|text| text.rsplit_once('(')).map(|(_, inside)| inside);
    let reason = || text.strip_prefix("error:").and_then(|rest| rest.split(':').nth(3));
    bracketed.or_else(reason).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_in_debug() {
        let endpoint = Endpoint {
            what: "solr",
            name: "::1".to_owned(),
            port: 8983,
            https: true,
            certificate: true,
            ca_file: None,
            timeout: Duration::from_secs(1),
        };
        let secret = || SecretValue::new("hunter2".to_owned());
        for authorization in [Authorization::Basic("u".to_owned(), secret()), Authorization::Bearer(secret())]
        {
            let http = Http::new(endpoint.clone(), &authorization);
            assert!(http.authorization.clone().flatten().is_some());
            let shown = format!("{http:?}{authorization:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("dTpodW50ZXIy"), "{shown}");
            assert_eq!(http.uri("/x"), "https://[::1]:8983/x");
        }
        let broken = Authorization::Bearer(SecretValue::new("a\nb".to_owned()));
        let fault = Http::new(endpoint, &broken).get("/").unwrap_err();
        assert!(matches!(&fault, Fault::Again { reason, target_down: true, .. } if !reason.contains("a\nb")));
    }

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_by_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (value, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now).map(|d| d.as_secs()), seconds, "{value}");
        }
    }

    #[test]
    fn a_form_carries_any_value_and_a_path_any_character() {
        let form = form(&[("q", "{!term f=a v=$v}"), ("v", "a&b=c d\u{e9}\r\n")]);
        assert_eq!(form, "q=%7B%21term%20f%3Da%20v%3D%24v%7D&v=a%26b%3Dc%20d%C3%A9%0D%0A");
        assert_eq!(escape_path("/a b/%20/\u{e9}\"?"), "/a%20b/%20/%C3%A9%22%3F");
    }

    #[test]
    fn the_cause_of_a_tls_fault_is_said_without_openssls_places() {
        let untrusted = "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify \
                         failed:../ssl/statem/statem_clnt.c:1889: (self-signed certificate)";
        assert_eq!(tls_cause(untrusted), "self-signed certificate");
        let plain = "error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../ssl/x.c:354:";
        assert_eq!(tls_cause(plain), "wrong version number");
    }
}
