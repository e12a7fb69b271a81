//! A headless Chromium, driven through its debugging pipe: JSON messages ended by NUL, no port and no library.

use super::PATIENCE;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// One page in a browser of its own.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    last: u64,
    /// What the page complained of: exceptions, refused scripts and styles.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a page; `None` where this machine has no Chromium.
    #[track_caller]
    pub fn open(url: &str) -> Option<Browser> {
        let there = Command::new("sh").args(["-c", "command -v chromium >/dev/null"]).status();
        if !there.is_ok_and(|status| status.success()) {
            super::skip("no chromium; WANT_CHROMIUM=1 tests/support/install installs it");
            return None;
        }
        let profile = tempfile::tempdir().expect("a temporary folder");
        // The pipe is descriptors 3 and 4; the shell can say so, a Command cannot without unsafe code.
        let script = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                      --user-data-dir=\"$0\" --remote-debugging-pipe about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(profile.path())
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let commands = child.stdin.take().expect("its input is a pipe");
        let mut reader = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while reader.read_until(0, &mut bytes).is_ok_and(|count| count > 0) {
                bytes.pop();
                let message = serde_json::from_slice(&bytes).expect("the browser speaks JSON");
                if sender.send(message).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        let (session, last, complaints) = (None, 0, Vec::new());
        let mut browser = Browser { child, commands, messages, session, last, complaints, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.call("Page.navigate", json!({"url": url}));
        browser.wait_for("document.readyState === 'complete' && document.querySelector('main') !== null");
        Some(browser)
    }

    /// Sends a command and waits for its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).expect("the browser reads");
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let message = message.unwrap_or_else(|e| panic!("no answer to {method}: {e}"));
            if message["id"] == self.last {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let entry = &event["params"]["entry"];
        // A server that is stopped by the test is a failed fetch, which the page is to survive.
        let is_fault = entry["level"] == "error" && entry["source"] != "network";
        if event["method"] == "Runtime.exceptionThrown" || is_fault {
            self.complaints.push(event["params"].to_string());
        }
    }

    /// What a piece of script gives.
    #[track_caller]
    pub fn evaluate(&mut self, script: &str) -> Value {
        let parameters = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result.get("exceptionDetails").is_none(), "{script}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until a piece of script gives true.
    #[track_caller]
    pub fn wait_for(&mut self, script: &str) {
        let end = Instant::now() + PATIENCE;
        while self.evaluate(script) != json!(true) {
            assert!(
                Instant::now() < end,
                "not within {PATIENCE:?}: {script}\n{}",
                self.evaluate("document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As on a screen of this width, in this colour scheme.
    pub fn look(&mut self, width: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// The whole page as a picture.
    pub fn picture(&mut self, path: &Path) {
        let shot =
            self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let data = shot["data"].as_str().expect("a picture is text in Base64");
        let bytes = base64_simd::STANDARD.decode_to_vec(data).expect("a picture is Base64");
        std::fs::write(path, bytes).expect("the folder of the pictures is there");
    }

    /// What a screen reader is told: role and name of each node that is not left out, in order.
    #[track_caller]
    pub fn accessible(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().expect("a tree has nodes").clone();
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let heard = nodes.iter().filter(|node| node["ignored"] != true);
        heard.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
