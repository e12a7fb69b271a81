//! A double of dfapi: it takes tasks, knows them again by their idempotency key, and refuses or fails when told to.

use super::http_server::{Certificate, Handler, HttpServer, Reply, Request};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// The token it asks for.
pub const TOKEN: &str = "t0ken-of-dfapi";

/// A call that carried something out.
#[derive(Clone, Debug)]
pub struct Task {
    /// The path called.
    pub path: String,
    /// Its idempotency key.
    pub key: String,
    /// The task.
    pub body: Value,
    /// When it came.
    pub at: Instant,
}

/// What it did and how it behaves.
#[derive(Debug, Default)]
pub struct State {
    /// What was carried out, in order.
    pub tasks: Vec<Task>,
    /// Calls that were repetitions.
    pub repeated: usize,
    /// Answers given to the next calls, instead of its own.
    pub next: VecDeque<Reply>,
    /// Those calls are carried out all the same: their answer gets lost.
    pub does_it_all_the_same: bool,
    /// Answers by patient number, whatever comes.
    pub by_patient: BTreeMap<String, Reply>,
    /// It answers nothing at all.
    pub silent: bool,
}

/// A running double; a stopped one keeps its state.
pub struct Dfapi {
    state: Arc<Mutex<State>>,
    port: u16,
    path: String,
    certificate: Option<Certificate>,
    server: Option<HttpServer>,
}

impl Dfapi {
    /// Below a path, which is empty for the root.
    #[track_caller]
    pub fn start(port: u16, path: &str, certificate: Option<Certificate>) -> Dfapi {
        let state = Arc::default();
        let mut dfapi = Dfapi { state, port, path: path.to_owned(), certificate, server: None };
        dfapi.up();
        dfapi
    }

    /// Listens again.
    #[track_caller]
    pub fn up(&mut self) {
        let (state, path) = (Arc::clone(&self.state), self.path.clone());
        let handler: Handler = Arc::new(move |request| state.lock().unwrap().answer(&path, request));
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

    /// What was carried out so far.
    pub fn tasks(&self) -> Vec<Task> {
        self.state().tasks.clone()
    }

    /// What was asked since it came up.
    pub fn requests(&self) -> Vec<Request> {
        self.server.as_ref().map(HttpServer::requests).unwrap_or_default()
    }
}

impl State {
    fn answer(&mut self, below: &str, request: &Request) -> Reply {
        if self.silent {
            return Reply::Silence;
        }
        if request.header("authorization") != format!("Bearer {TOKEN}") {
            return Reply::of(401, "application/json", "{}").with("WWW-Authenticate", "Bearer");
        }
        let Some(path) = request.path.strip_prefix(below) else { return Reply::of(404, "text/plain", "") };
        if !["/credentials", "/patients/merge"].contains(&path) {
            return Reply::of(404, "text/plain", "");
        }
        if request.method != "POST" {
            return Reply::of(405, "text/plain", "").with("Allow", "POST");
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return Reply::of(400, "text/plain", "");
        };
        if let Some(reply) = self.next.pop_front() {
            if self.does_it_all_the_same {
                self.carry_out(path, request, body);
            }
            return reply;
        }
        let patient = body["patient"]["number"].as_str().unwrap_or_default();
        if let Some(reply) = self.by_patient.get(patient) {
            return reply.clone();
        }
        match self.carry_out(path, request, body) {
            true => Reply::of(201, "application/json", "{}"),
            false => Reply::of(409, "application/json", r#"{"error":"done before"}"#),
        }
    }

    fn carry_out(&mut self, path: &str, request: &Request, body: Value) -> bool {
        let key = request.header("idempotency-key").to_owned();
        if self.tasks.iter().any(|task| task.key == key) {
            self.repeated += 1;
            return false;
        }
        self.tasks.push(Task { path: path.to_owned(), key, body, at: request.at });
        true
    }
}
