//! A double of Solr: it answers as a real Solr 7.7 was seen to, bodies, statuses and oddities alike, and keeps what it is
//! sent. Trap by trap it does the unexpected thing that the real one does.

use super::http_server::{Certificate, Handler, HttpServer, Reply, Request};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// The user that may do everything.
pub const USER: &str = "istmia";
/// Their password.
pub const PASSWORD: &str = "s3cret-of-solr";
/// The user's name and password as basic authentication sends them.
const BASIC: &str = "Basic aXN0bWlhOnMzY3JldC1vZi1zb2xy";
/// The longest term that Lucene takes.
const TERM_BYTES_MAX: usize = 32_766;

/// How a core is.
#[derive(Clone, Debug, PartialEq)]
pub enum Core {
    /// Ready.
    Ready,
    /// It says so for that many times.
    Loading(u32),
    /// With what it says.
    Broken(String),
}

/// What it holds and how it behaves.
#[derive(Debug, Default)]
pub struct State {
    /// Core → how it is.
    pub cores: BTreeMap<String, Core>,
    /// Core → id → document.
    pub documents: BTreeMap<String, BTreeMap<String, Value>>,
    /// Documents as they came, core and id, repetitions included.
    pub arrivals: Vec<(String, String)>,
    /// Fields that a schema has given a number's type.
    pub numbers: BTreeSet<String>,
    /// Answers given to the next requests for documents, instead of its own.
    pub next_updates: VecDeque<Reply>,
    /// The password, when it has been changed.
    pub password: Option<String>,
    /// The user may index and search, and nothing else.
    pub restricted: bool,
    /// An id with which it has an error of its own.
    pub poison: Option<String>,
    /// A user of the core admin was told no.
    pub created: Vec<String>,
    /// It answers nothing at all.
    pub silent: bool,
}

/// A running double; a stopped one keeps its state.
pub struct Solr {
    /// What it holds.
    pub state: Arc<Mutex<State>>,
    port: u16,
    certificate: Option<Certificate>,
    server: Option<HttpServer>,
}

impl Solr {
    /// With these cores, ready and empty.
    #[track_caller]
    pub fn start(port: u16, certificate: Option<Certificate>, cores: &[&str]) -> Solr {
        let state = State {
            cores: cores.iter().map(|name| ((*name).to_owned(), Core::Ready)).collect(),
            ..State::default()
        };
        let mut solr = Solr { state: Arc::new(Mutex::new(state)), port, certificate, server: None };
        solr.up();
        solr
    }

    /// Listens again.
    #[track_caller]
    pub fn up(&mut self) {
        let state = Arc::clone(&self.state);
        let handler: Handler = Arc::new(move |request| state.lock().unwrap().answer(request));
        let server = HttpServer::start(self.port, self.certificate.as_ref(), handler);
        self.port = server.port;
        self.server = Some(server);
    }

    /// Closes its port and its connections.
    pub fn down(&mut self) {
        self.server = None;
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The documents of a core by their ids.
    pub fn documents(&self, core: &str) -> BTreeMap<String, Value> {
        self.state().documents.get(core).cloned().unwrap_or_default()
    }

    /// What was asked since it came up.
    pub fn requests(&self) -> Vec<Request> {
        self.server.as_ref().map(HttpServer::requests).unwrap_or_default()
    }

    /// Connections since it came up.
    pub fn connections(&self) -> usize {
        self.server.as_ref().map_or(0, HttpServer::connections)
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        if self.silent {
            return Reply::Silence;
        }
        let authorization = request.header("authorization");
        if authorization.starts_with("Bearer ") {
            // Trap 1: as if all were well.
            return Reply::of(200, "text/plain;charset=utf-8", "");
        }
        let basic = self.password.as_ref().map_or(BASIC.to_owned(), |changed| changed.clone());
        if authorization != basic {
            return html(401, "require authentication").with("WWW-Authenticate", "Basic realm=\"solr\"");
        }
        if request.target_bytes > 8192 {
            return Reply::of(414, "text/plain", "");
        }
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["solr", "admin", "cores"] if self.restricted => {
                html(403, "Unauthorized request, Response code: 403")
            }
            ["solr", "admin", "cores"] => self.admin(request),
            ["solr", core, rest @ ..] => self.core(core, rest, request),
            _ => html(404, "Not Found"),
        }
    }

    fn admin(&mut self, request: &Request) -> Reply {
        let core = request.parameter("core");
        match request.parameter("action") {
            "STATUS" => {
                let (state, failures) = match self.cores.get_mut(core) {
                    None => (json!({}), json!({})),
                    Some(Core::Broken(why)) => (json!({}), json!({core: *why})),
                    Some(loading @ Core::Loading(_)) => {
                        let Core::Loading(times) = loading else { unreachable!() };
                        *times = times.saturating_sub(1);
                        if *times == 0 {
                            *loading = Core::Ready;
                        }
                        (json!({"name": core, "isLoaded": "false", "isLoading": "true"}), json!({}))
                    }
                    Some(Core::Ready) => {
                        (json!({"name": core, "config": "solrconfig.xml", "uptime": 1270}), json!({}))
                    }
                };
                result(json!({"initFailures": failures, "status": {core: state}}))
            }
            "CREATE" => {
                let name = request.parameter("name");
                if request.parameter("configSet") != "_default" || request.parameter("instanceDir") != name {
                    return error(400, "Can not find the specified config set");
                }
                if self.cores.contains_key(name) {
                    return error(500, &format!("Core with name '{name}' already exists."));
                }
                self.cores.insert(name.to_owned(), Core::Ready);
                self.created.push(name.to_owned());
                result(json!({"core": name}))
            }
            _ => error(400, "Unsupported operation"),
        }
    }

    fn core(&mut self, core: &str, rest: &[&str], request: &Request) -> Reply {
        match self.cores.get(core) {
            None => return html(404, "Not Found"),
            Some(Core::Broken(_)) => {
                // Without a responseHeader.
                let body =
                    json!({"error": {"msg": "SolrCore is not available due to init failure", "code": 500}});
                return Reply::of(500, "text/plain;charset=utf-8", body.to_string());
            }
            Some(Core::Loading(_)) => return error(503, "SolrCore is loading"),
            Some(Core::Ready) => {}
        }
        match rest {
            ["admin", "ping"] => result(json!({"status": "OK"})),
            ["update"] => match self.next_updates.pop_front() {
                Some(reply) => reply,
                None => self.update(core, request),
            },
            ["select"] => self.select(core, request),
            _ => html(404, "Not Found"),
        }
    }

    fn update(&mut self, core: &str, request: &Request) -> Reply {
        if !request.header("content-type").starts_with("application/json") {
            return error(
                415,
                "Unsupported ContentType: text/plain  Not in: [application/xml, application/json]",
            );
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return error(400, "JSON Parse Error: char=\u{1f}");
        };
        let Value::Array(documents) = body else { return error(400, "Unknown command 'id' at [5]") };
        for document in documents {
            // Trap 4: without an id a random one.
            let id = document["id"]
                .as_str()
                .map_or_else(|| format!("random-{}", self.arrivals.len()), str::to_owned);
            if self.poison.as_ref() == Some(&id) {
                return error(500, "java.lang.NullPointerException");
            }
            if let Err(why) = self.check(&id, &document) {
                // Trap 3: those before it stay.
                return error(400, &why);
            }
            self.arrivals.push((core.to_owned(), id.clone()));
            self.documents.entry(core.to_owned()).or_default().insert(id, document);
        }
        result(json!({}))
    }

    fn check(&self, id: &str, document: &Value) -> Result<(), String> {
        for (name, value) in document.as_object().ok_or("Expected map")? {
            let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            let long = values.iter().find(|v| v.as_str().is_some_and(|text| text.len() > TERM_BYTES_MAX));
            if let Some(long) = long {
                let start: String = long.as_str().unwrap_or_default().chars().take(30).collect();
                return Err(format!(
                    "Exception writing document id {id} to the index; possible analysis error: Document contains at \
                     least one immense term in field=\"{name}\" (whose UTF8 encoding is longer than the max length \
                     32766), the prefix is '{start}'"
                ));
            }
            if let Some(bad) = values.iter().find(|v| self.numbers.contains(name) && !is_number(v)) {
                let text = bad.as_str().unwrap_or_default();
                return Err(format!(
                    "ERROR: [doc={id}] Error adding field '{name}'='{text}' msg=For input string: \"{text}\""
                ));
            }
            match name.rsplit_once('_').map(|(_, kind)| kind) {
                _ if name == "id" => {}
                Some("ss") => {}
                Some("s" | "dt") if value.is_array() => {
                    return Err(format!(
                        "ERROR: [doc={id}] multiple values encountered for non multiValued field {name}: [..]"
                    ));
                }
                Some("s") => {}
                Some("dt") => {
                    let text = value.as_str().unwrap_or_default();
                    if text.len() < 20 || !text.ends_with('Z') || text.as_bytes()[10] != b'T' {
                        return Err(format!("Invalid Date String:'{text}'"));
                    }
                }
                _ => return Err(format!("ERROR: [doc={id}] unknown field '{name}'")),
            }
        }
        Ok(())
    }

    fn select(&self, core: &str, request: &Request) -> Reply {
        let query = request.parameter("q");
        let parsed = query.strip_prefix("{!term f=").and_then(|rest| rest.strip_suffix(" v=$v}"));
        let Some(field) = parsed else { return error(400, "org.apache.solr.search.SyntaxError") };
        let mut value = request.parameter("v").to_owned();
        if request.parameter("expandMacros") != "false" {
            // What a stranger could do with ${…}.
            value = value.replace("${wt}", request.parameter("wt")).replace("${q}", query);
        }
        let empty = BTreeMap::new();
        let documents = self.documents.get(core).unwrap_or(&empty);
        if !documents.is_empty() && !documents.values().any(|d| d.get(field).is_some()) {
            return error(400, &format!("undefined field {field}"));
        }
        let holds = |document: &&Value| match &document[field] {
            Value::Array(values) => values.iter().any(|v| v == value.as_str()),
            one => one == value.as_str(),
        };
        let found: Vec<&Value> = documents.values().filter(holds).collect();
        let number = |name: &str, default: usize| request.parameter(name).parse().unwrap_or(default);
        let (start, rows) = (number("start", 0), number("rows", 10));
        let wanted = request.parameter("fl");
        let docs: Vec<Value> = found
            .iter()
            .skip(start)
            .take(rows)
            .map(|d| d.get(wanted).map_or(json!({}), |value| json!({wanted: value})))
            .collect();
        result(json!({"response": {"numFound": found.len(), "start": start, "docs": docs}}))
    }
}

fn is_number(value: &Value) -> bool {
    value.is_number() || value.as_str().is_some_and(|text| text.parse::<i64>().is_ok())
}

/// JSON comes as `text/plain` (trap 2).
fn result(mut body: Value) -> Reply {
    body["responseHeader"] = json!({"status": 0, "QTime": 4});
    Reply::of(200, "text/plain;charset=utf-8", body.to_string())
}

fn error(code: u16, text: &str) -> Reply {
    let metadata = json!(["error-class", "org.apache.solr.common.SolrException"]);
    let body = json!({
        "responseHeader": {"status": code, "QTime": 1},
        "error": {"metadata": metadata, "msg": text, "code": code},
    });
    Reply::of(code, "text/plain;charset=utf-8", body.to_string())
}

fn html(code: u16, text: &str) -> Reply {
    let body = format!(
        "<html>\n<head>\n<meta http-equiv=\"Content-Type\" content=\"text/html;charset=utf-8\"/>\n\
         <title>Error {code} {text}</title>\n</head>\n<body><h2>HTTP ERROR {code}</h2></body>\n</html>\n"
    );
    Reply::of(code, "text/html;charset=iso-8859-1", body)
}
